"""The file of API keys, and the command that makes a key."""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from functions.api import api_keys, keys
from functions.api.api_keys import ApiKeyFile, BadKeys, new_key, read_keys
from tests.support.gateway_world import is_problem, world


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        '{"id": "x", "sha256": "", "user": "a"}',
        new_key("a")[1].model_dump_json().replace('"a"', '""'),
        new_key("a")[1].model_dump_json().replace('"a"', '"anonymous"'),
        new_key("a", ["x"])[1].model_dump_json().replace('["x"]', "[]"),
    ],
)
def test_a_line_with_a_missing_or_wrong_field_is_refused(line: str):
    with pytest.raises(BadKeys, match="line 1: "):
        read_keys(line)


async def test_a_gateway_whose_keys_cannot_be_read_does_not_start(tmp_path: Path):
    async with world(api_keys_file=tmp_path / "nowhere") as w:
        with pytest.raises(SystemExit, match=r"API_KEYS_FILE=.*nowhere cannot be read"):
            await w.gateway()


def test_a_key_is_made_shown_once_and_only_its_hash_is_for_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    keys.main(["new", "alice", "--lane", "online_task", "--model", "sd-mini", "--model", "flux-mini"])
    out, err = capsys.readouterr()
    key = err.split()[-1]
    assert key not in out
    (tmp_path / "keys").write_text(out)
    found = ApiKeyFile(tmp_path / "keys").find(key)
    assert found is not None
    assert (found.user, found.lanes, found.models) == ("alice", ("online_task",), ("sd-mini", "flux-mini"))
    assert key.rpartition("_")[2] not in out
    with pytest.raises(SystemExit):
        keys.main(["new", "anonymous"])


def line(user: str) -> tuple[str, str]:
    """A key of this user and the text of a file that holds it alone. Users of equal length give texts of equal size."""
    key, of_file = new_key(user)
    return key, of_file.model_dump_json(exclude_none=True) + "\n"


def write_in_place(path: Path, text: str) -> None:
    """Write the file with the size and the modification time that it had."""
    before = path.stat()
    with path.open("r+") as file:
        file.write(text)
        file.truncate()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename(path: Path, text: str) -> None:
    """Replace the file by another one with an older modification time."""
    newer = path.with_name("newer")
    newer.write_text(text)
    os.utime(newer, (1, 1))
    newer.replace(path)


def switch_link(path: Path, text: str) -> None:
    """Replace the file as Kubernetes does: the folder is a link, which is switched to another folder."""
    folder = path.with_name(f"folder{time.monotonic_ns()}")
    folder.mkdir()
    (folder / "keys").write_text(text)
    os.utime(folder / "keys", (1, 1))
    link = path.with_name("link")
    link.unlink(missing_ok=True)
    link.symlink_to(folder)
    if not path.is_symlink():
        path.unlink()
        path.symlink_to(link / "keys")


def set_back(path: Path, text: str) -> None:
    """Write the file and set its modification time back."""
    path.write_text(text)
    os.utime(path, (1, 1))


@pytest.mark.parametrize("change", [write_in_place, rename, switch_link, set_back, Path.write_text])
def test_a_change_of_the_file_is_seen_whatever_its_size_and_time(tmp_path: Path, change: Callable[[Path, str], object]):
    path = tmp_path / "keys"
    key, text = line("user0")
    path.write_text(text)
    file = ApiKeyFile(path)
    for number in range(1, 40):
        newer, text = line(f"user{number % 10}")
        change(path, text)
        assert file.find(key) is None, number
        assert file.find(newer) is not None, number
        key = newer


def test_a_second_change_within_one_tick_of_the_clock_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "keys"
    key, text = line("user0")
    path.write_text(text)
    in_this_tick = path.stat()
    monkeypatch.setattr(Path, "stat", lambda path: in_this_tick)
    file = ApiKeyFile(path)
    newer, text = line("user1")
    path.write_text(text)
    assert file.find(key) is None
    assert file.find(newer) is not None


def test_a_file_that_has_not_changed_for_a_while_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    key, text = line("alice")
    (tmp_path / "keys").write_text(text)
    now, reads = time.time(), itertools.count()
    monkeypatch.setattr(api_keys.time, "time", lambda: now + 60)
    file = ApiKeyFile(tmp_path / "keys")
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (next(reads), read(path))[1])
    for _ in range(100):
        assert file.find(key) is not None
    assert next(reads) == 0


@pytest.mark.parametrize("broken", ["gone", "a folder", "no UTF-8", "half a line"])
async def test_a_broken_file_shows_in_the_metrics_and_the_gateway_stays_ready(tmp_path: Path, broken: str):
    path = tmp_path / "keys"
    key, text = line("alice")
    path.write_text(text)
    async with world(api_keys_file=path) as w:
        client, _ = await w.gateway()
        assert "ai_image_gen_api_keys_broken 0.0" in (await client.get("/metrics")).text
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        match broken:
            case "gone":
                path.unlink()
            case "a folder":
                path.unlink()
                path.mkdir()
            case "no UTF-8":
                path.write_bytes(b"\xff")
            case _:
                path.write_text(text[:-20])
        # No request with a key is needed for the operator to see it.
        assert "ai_image_gen_api_keys_broken 1.0" in (await client.get("/metrics")).text
        ready = await client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json() == {
            "status": "ready",
            "degraded": {
                "api_keys_unusable": "The file of API keys cannot be used. The keys that were read before stay in force."
            },
        }
        assert str(tmp_path) not in ready.text
        assert (await client.get("/models", headers={"X-API-Key": key})).status_code == 200
        newer, text = line("carol")
        if path.is_dir():
            path.rmdir()
        path.write_text(text)
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        assert "ai_image_gen_api_keys_broken 0.0" in (await client.get("/metrics")).text
        assert (await client.get("/models", headers={"X-API-Key": newer})).status_code == 200
        is_problem(await client.get("/models", headers={"X-API-Key": key}), 401, "unauthorized")


async def test_without_keys_no_metric_speaks_of_their_file():
    async with world() as w:
        client, _ = await w.gateway()
        assert "api_keys" not in (await client.get("/metrics")).text


BAD_NAMES = ["", "a\u2028b", "a\u2029b", "a\u0085b", "a\nb", "a\rb", "a\x0bb", "a\x0cb", "a\x1cb", "a\x1db", "a\x1eb"]
BAD_NAMES += [
    "a\x00b",
    "a\x1b[31mb",
    "a\x7fb",
    "a\x9bb",
    "a\ud800b",
    "a\udcffb",
    "a\u202eb",
    "\ufeffa",
    "\u2028",
    "a\t",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_no_key_is_made_with_a_name_that_the_file_cannot_hold(name: str, capsys: pytest.CaptureFixture[str]):
    for arguments in (["new", name], ["new", "alice", "--lane", name], ["new", "alice", "--model", name]):
        with pytest.raises(SystemExit) as ended:
            keys.main(arguments)
        assert ended.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "aig_" not in err
        assert err.splitlines()[-1].startswith("python -m functions.api.keys: error: ")
        assert all(character.isprintable() or character == "\n" for character in err)


@pytest.mark.parametrize("name", ["alice", "Zoë O'Neil", "日本", "a b", '"quoted"', "a\\nb", "#", "x" * 200])
def test_every_key_that_is_made_is_read_by_the_gateway(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    keys.main(["new", name])
    out, err = capsys.readouterr()
    (tmp_path / "keys").write_text(f"# {name}\n{out}", encoding="utf-8")
    found = ApiKeyFile(tmp_path / "keys").find(err.split()[-1])
    assert found is not None and found.user == name


def test_a_name_that_the_terminal_gave_as_bytes_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        keys.main(["new", os.fsdecode(b"caf\xe9")])
    assert "aig_" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16", "utf-8"])
def test_a_key_is_made_for_any_user_on_a_terminal_of_any_encoding(tmp_path: Path, encoding: str):
    command = [sys.executable, "-m", "functions.api.keys", "new", "Zoë 日本"]
    environ = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, env=environ, check=True)
    (tmp_path / "keys").write_text(done.stdout.decode(encoding))
    (key,) = read_keys((tmp_path / "keys").read_text()).values()
    assert key.user == "Zoë 日本"
