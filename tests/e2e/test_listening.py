"""The sockets on which other processes can reach the parts of a whole service."""

import pytest

from tests.support.sockets import open_to_others
from tests.support.stack import Api, Process


@pytest.mark.parametrize("name", ["gateway", "sd_runner", "consumer"])
def test_a_part_at_work_listens_on_its_http_port_alone(api: Api, request: pytest.FixtureRequest, name: str) -> None:
    part: Process = request.getfixturevalue(name)
    assert open_to_others(part.processes()) == {f"tcp {part.url.removeprefix('http://')}"}
