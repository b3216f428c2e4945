"""The file of API keys, and the command that makes a key."""

from pathlib import Path

import pytest

from functions.api import keys
from functions.api.api_keys import ApiKeyFile, BadKeys, new_key, read_keys
from tests.support.gateway_world import world


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
