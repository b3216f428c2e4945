"""A view that was stopped anywhere, or that read its partitions at different speeds, equals any other."""

import contextlib
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.view import View
from adapters.view_file import VERSION
from tasks.log import Record
from tests.adapters.test_view import CARD, EVENTS, IDS, LANES, body, known, on_events, on_lane

PARTITIONS = 2
Part = tuple[str, int]


def partition_of(task_id: str) -> int:
    return IDS.index(task_id) % PARTITIONS


@st.composite
def logs(draw: st.DrawFn) -> dict[Part, list[Record]]:
    """Lanes and events, by (topic, partition), each in its own order."""
    log: dict[Part, list[Record]] = {}
    for task_id in draw(st.lists(st.sampled_from(IDS), max_size=8)):
        partition = partition_of(task_id)
        records = log.setdefault((LANES[0], partition), [])
        records.append(on_lane(len(records), body(task_id), partition=partition))
    for event in draw(st.lists(EVENTS, max_size=20)):
        partition = partition_of(event.task_id)
        records = log.setdefault(("events", partition), [])
        records.append(on_events(len(records), event, partition))
    return log


def mixed(log: dict[Part, list[Record]], data: st.DataObject) -> list[Record]:
    """The records in an order in which they may be read: ordered within each partition, any order between them."""
    turns = data.draw(st.permutations([part for part, records in log.items() for _ in records]))
    left = {part: iter(records) for part, records in log.items()}
    return [next(left[part]) for part in turns]


@settings(max_examples=50, deadline=None)
@given(logs(), st.data())
def test_the_order_between_partitions_does_not_matter(log: dict[Part, list[Record]], data: st.DataObject):
    views = View("", LANES), View("", LANES)
    for view in views:
        view.apply([CARD, *mixed(log, data)])
    assert known(views[0]) == known(views[1])
    assert views[0].offsets() == views[1].offsets()
    for view in views:
        view.close()


@settings(max_examples=25, deadline=None)
@given(logs(), st.data())
def test_a_view_stopped_anywhere_and_opened_again_misses_nothing(log: dict[Part, list[Record]], data: st.DataObject):
    records = mixed(log, data)
    with tempfile.TemporaryDirectory() as folder:
        whole, stopped = View("", LANES), View(Path(folder, "view.db"), LANES)
        whole.apply([CARD, *records])
        stopped.apply([CARD, *records[: data.draw(st.integers(0, len(records)))]])
        stopped.close()
        again = View(Path(folder, "view.db"), LANES)
        offsets = again.offsets()
        again.apply([record for part, kept in log.items() for record in kept[offsets.get(part, 0) :]])
        assert known(again) == known(whole)
        assert again.offsets() == whole.offsets()
        again.close()
        whole.close()


@settings(max_examples=25, deadline=None)
@given(logs(), st.data())
def test_a_partition_forgotten_and_read_again_is_the_same(log: dict[Part, list[Record]], data: st.DataObject):
    view = View("", LANES)
    view.apply([CARD, *mixed(log, data)])
    before, offsets = known(view), view.offsets()
    view.forget([0])
    assert all(view.get(task_id) is None for task_id in IDS if partition_of(task_id) == 0)
    view.apply([record for (_, partition), kept in log.items() if partition == 0 for record in kept])
    assert known(view) == before
    # The models topic also has a partition 0. Its offset is not needed, because all cards are always read.
    assert {part: end for part, end in view.offsets().items() if part in log} == {
        part: end for part, end in offsets.items() if part in log
    }
    view.close()


def test_a_file_of_another_version_is_replaced(tmp_path: Path):
    path = tmp_path / "view.db"
    old = View(path, LANES)
    old.apply([CARD, on_lane(0, body(IDS[0]))])
    old.close()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TABLE cards")
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    view = View(path, LANES)
    assert view.get(IDS[0]) is None and view.offsets() == {} and not view.models()
    view.close()


def test_nothing_of_a_batch_is_kept_if_one_record_cannot_be_applied(monkeypatch: pytest.MonkeyPatch):
    view = View("", LANES)
    view.apply([CARD])
    before = view.offsets()
    monkeypatch.setattr("adapters.view.apply", lambda state, event: 1 / 0)
    event = on_events(0, b'{"kind": "cancel_requested", "task_id": "x", "at": 1}')
    with pytest.raises(ZeroDivisionError):
        view.apply([on_lane(0, body(IDS[0])), event])
    assert view.get(IDS[0]) is None and view.offsets() == before
    view.close()
