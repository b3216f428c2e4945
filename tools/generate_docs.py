"""`python -m tools.generate_docs`: writes docs/errors.md and docs/settings.md from the code that they describe."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from config.settings import KAFKA_CONFIG_PREFIX, Settings, allowed
from infra.local import kafka_auth
from infra.local.placement import FORM
from infra.local.ports import PORTS
from tasks.errors import ERRORS

FOLDER = Path(__file__).resolve().parents[1] / "docs"
_KAFKA_AUTH = (
    "1: the local Kafka refuses clients without a user and password. They are random, the parts get them, and "
    "`.local/kafka/client.properties` holds them for other clients. 0: every user of this machine can read and write "
    "all records."
)
_SETTINGS_HEAD = "| name | default | allowed | meaning |\n| --- | --- | --- | --- |"
_MAKE_RUN_LEAD = "`make run` alone reads these, from the environment or as `make run RUNNERS=flux-1-dev=2`."
_RUNNERS = (
    "How many runners a model gets, each on a GPU of its own, in the order written. CUDA_VISIBLE_DEVICES limits which "
    "GPUs are used. A model that is not named gets one runner; without a GPU all use the CPU."
)
_RETRY = {"never": "no", "later": "as another attempt", "uncounted": "without counting"}


def errors_page() -> str:
    """Every error by HTTP status and code."""
    rows = [
        f'| <a id="{code}"></a>`{code}` | {error.status} | {_RETRY[error.retry]} | {error.title()} |'
        for code, error in sorted(ERRORS.items(), key=lambda item: (item[1].status, item[0]))
    ]
    return _page(
        "Errors",
        "Every error is a problem document (RFC 9457) whose `code` is one of these. A task that fails keeps its code "
        "in `error.code`. Tried again: whether the service itself tries a task again after an attempt with this error.",
        "| code | status | tried again | meaning |\n| --- | --- | --- | --- |",
        rows,
    )


def settings_page() -> str:
    """Every setting in the order of the code."""
    rows = [
        f"| `{name.upper()}` | {_default(field)} | {allowed(field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return _page(
        "Settings",
        "All settings are environment variables; a wrong value ends the start with its name, the value and what is "
        f"allowed. `{KAFKA_CONFIG_PREFIX}*` passes any other setting to librdkafka: "
        f"`{KAFKA_CONFIG_PREFIX}SASL_MECHANISM=PLAIN` is its `sasl.mechanism`.",
        _SETTINGS_HEAD,
        [*rows, "", "## Settings of `make run`", "", _MAKE_RUN_LEAD, "", _SETTINGS_HEAD, *_make_run_rows()],
    )


def _make_run_rows() -> list[str]:
    return [
        f"| `RUNNERS` |  | {FORM} | {_RUNNERS} |",
        f"| `{kafka_auth.SETTING}` | `0` | {kafka_auth.ALLOWED} | {_KAFKA_AUTH} |",
        "| `LOCAL_DIR` | `.local` |  | Folder of Kafka's logs, the images and what the parts keep. |",
        *(f"| `{name}` | `{number}` | a port | Port of {what}. |" for name, (number, what) in PORTS.items()),
    ]


PAGES: Mapping[str, Callable[[], str]] = {"errors.md": errors_page, "settings.md": settings_page}


def _page(title: str, lead: str, head: str, rows: list[str]) -> str:
    made = "Made by `python -m tools.generate_docs`; edit the code instead."
    return "\n".join([f"# {title}", "", made, "", lead, "", head, *rows, ""])


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, dict):
        value = ",".join(f"{key}={item:g}" for key, item in value.items())
    if isinstance(value, tuple):
        value = ",".join(value)
    return "" if value in (None, "") else f"`{value}`"


def main() -> None:
    """Write the pages."""
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
