"""The addresses on which the parts of `make run` listen."""

from pathlib import Path

from config.settings import Settings
from infra.local.placement import place
from infra.local.processes import process_table
from infra.local.servers import HOST


def hosts(settings: Settings, home: Path) -> dict[str, str]:
    """The host on which each service and the consumer listen, by part."""
    parts = [part for row in process_table(settings, home, place(["sd-mini"], {}, "", ()), ()) for part in row]
    hosts_of_services = {
        part.name: part.command[part.command.index("--host") + 1] for part in parts if "--host" in part.command
    }
    return hosts_of_services | {part.name: part.env["LISTEN_HOST"] for part in parts if part.name == "consumer"}


def test_every_part_listens_on_loopback_and_the_setting_moves_the_gateway_alone(tmp_path: Path) -> None:
    assert hosts(Settings(), tmp_path) == dict.fromkeys(("runner.sd-mini", "consumer", "gateway"), HOST)
    moved = hosts(Settings(listen_host="0.0.0.0"), tmp_path)  # type: ignore[call-arg]
    assert moved == {"runner.sd-mini": HOST, "consumer": HOST, "gateway": "0.0.0.0"}
    for written in ("kafka/server.properties", "s3/s3proxy.conf"):
        text = (tmp_path / written).read_text()
        assert f"//{HOST}:" in text
        assert "0.0.0.0" not in text
