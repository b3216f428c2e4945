"""View files that another version wrote."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from adapters.view import View
from adapters.view_file import VERSION
from tasks.events import KINDS
from tests.proofs.upgrade.reading import VERSIONS, sample
from tests.support.world import LANES

STATUSES = {"completed": 2, "failed": 1, "canceled": 1, "expired": 1, "queued": 1, "running": 1}


def restored(version: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Write the view file of that version. Returns its path and the sample."""
    kept = sample(version, "view")
    path = folder / "view.db"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.executescript("\n".join(kept["sql"]))
        db.execute(f"PRAGMA user_version = {kept['user_version']}")
    db.close()
    return path, kept


def statuses(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        values = [status for (status,) in db.execute("SELECT status FROM tasks")]
    db.close()
    return values


@pytest.mark.parametrize("version", VERSIONS)
def test_a_view_file_of_the_same_form_is_used_and_another_is_replaced(version: str, tmp_path: Path):
    path, kept = restored(version, tmp_path)
    view = View(path, LANES)
    if kept["user_version"] == VERSION:
        assert sorted(statuses(path)) == sorted(statuses_of(kept))
        assert view.offsets() and "sd-mini" in view.models()
        assert all(entry.task is not None and entry.task.prompt for entry in view.unfinished())
        assert all(view.get(task_id) for task_id in ids(path))
    else:
        assert view.offsets() == {}
        assert list(view.unfinished()) == []
    view.close()


def statuses_of(kept: dict[str, Any]) -> list[str]:
    with contextlib.closing(sqlite3.connect(":memory:")) as db, db:
        db.executescript("\n".join(kept["sql"]))
        return [status for (status,) in db.execute("SELECT status FROM tasks")]


def ids(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        return [task_id for (task_id,) in db.execute("SELECT task_id FROM tasks")]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("user_version", [0, VERSION - 1, VERSION + 1, 2**31 - 1])
def test_a_view_file_of_an_older_or_newer_form_is_replaced(version: str, user_version: int, tmp_path: Path):
    path, _ = restored(version, tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TABLE cards")
        db.execute("ALTER TABLE tasks RENAME COLUMN status TO standing")
        db.execute(f"PRAGMA user_version = {user_version}")
    db.close()
    view = View(path, LANES)
    assert view.offsets() == {}
    assert list(view.unfinished()) == []
    view.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)


@pytest.mark.parametrize("version", VERSIONS)
def test_view_files_of_one_form_have_the_same_columns_and_kinds_of_events(version: str, tmp_path: Path):
    """A version that skips a kind moves its offsets past it, so a version that knows the kind must read again."""
    kept = sample(version, "view")
    if kept["user_version"] != VERSION:
        pytest.skip("a file of this form is replaced")
    View(tmp_path / "today.db", LANES).close()
    tables = [line for line in kept["sql"] if line.startswith("CREATE ")]
    with contextlib.closing(sqlite3.connect(tmp_path / "today.db")) as db:
        today = [line for line in db.iterdump() if line.startswith("CREATE ")]
    assert (tables, set(kept["kinds"])) == (today, KINDS), "raise VERSION in adapters/view_file.py"
