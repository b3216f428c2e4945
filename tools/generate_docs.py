"""`python -m tools.generate_docs`: writes docs/errors.md and docs/settings.md from the code that they describe."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from config.settings import KAFKA_CONFIG_PREFIX, Settings, allowed
from tasks.errors import ERRORS

FOLDER = Path(__file__).resolve().parents[1] / "docs"
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
        "in `error.code`. Tried again: whether the service by itself tries a task again when an attempt ends so.",
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
        "| name | default | allowed | meaning |\n| --- | --- | --- | --- |",
        rows,
    )


PAGES: Mapping[str, Callable[[], str]] = {"errors.md": errors_page, "settings.md": settings_page}


def _page(title: str, lead: str, head: str, rows: list[str]) -> str:
    made = "Made by `python -m tools.generate_docs`; edit the code instead."
    return "\n".join([f"# {title}", "", made, "", lead, "", head, *rows, ""])


def _default(field: FieldInfo) -> str:
    value: Any = field.default
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
