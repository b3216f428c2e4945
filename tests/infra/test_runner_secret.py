"""The secret that the consumer and the runners of `make run` share."""

from pathlib import Path

from config.settings import Settings
from infra.local.placement import place
from infra.local.processes import process_table


def secrets_by_part(home: Path, **given: str) -> dict[str, str | None]:
    """What each part gets from `make run` as RUNNER_SECRET."""
    rows = process_table(Settings.model_validate(given), home, place(["flux-mini", "sd-mini"], {}, "", ()), ())
    return {part.name: part.env.get("RUNNER_SECRET") for row in rows for part in row}


def test_each_start_makes_up_a_secret_for_the_consumer_and_the_runners_alone(tmp_path: Path) -> None:
    first, second = (secrets_by_part(tmp_path) for _ in range(2))
    users = {"consumer", "runner.flux-mini", "runner.sd-mini"}
    assert {name for name, secret in first.items() if secret} == users
    assert len({first[name] for name in users}) == 1
    assert len(first["consumer"] or "") >= 43
    assert first["consumer"] != second["consumer"]
    assert not any(
        (first["consumer"] or "").encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()
    )


def test_a_secret_that_is_set_reaches_the_parts_as_it_is(tmp_path: Path) -> None:
    given = secrets_by_part(tmp_path, runner_secret="a-secret-of-this-test")
    assert not any(given.values())
