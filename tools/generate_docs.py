"""`python -m tools.generate_docs`: writes the pages of docs/ that are made from code and locks."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from config.kafka_config import KAFKA_CONFIG_PREFIX, KAFKA_SECRETS
from config.settings import Settings
from config.values import allowed, is_secret
from infra.local import kafka_auth
from infra.local.placement import FORM
from infra.local.ports import PORTS
from tasks.errors import ERRORS
from tools.licences import rows as licence_rows

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
_FROM_FILE = " (or `_FILE`)"
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
        f"| `{name.upper()}`{_FROM_FILE if is_secret(field) else ''} | {_default(field)} | {allowed(field)} "
        f"| {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return _page(
        "Settings",
        "All settings are environment variables; a wrong value ends the start with its name, the value and what is "
        f"allowed. `{KAFKA_CONFIG_PREFIX}*` passes any other setting to librdkafka: "
        f"`{KAFKA_CONFIG_PREFIX}SASL_MECHANISM=PLAIN` is its `sasl.mechanism`.\n\n"
        f"A setting marked{_FROM_FILE} is a secret. Instead of `NAME`, `NAME_FILE` may name a file that holds it, as "
        f"Docker and Kubernetes give secrets to a container; line breaks at its end do not count. Files are read at "
        f"the start. This holds for `{KAFKA_CONFIG_PREFIX}*` too, for {_kafka_secrets()}.",
        _SETTINGS_HEAD,
        [*rows, "", "## Settings of `make run`", "", _MAKE_RUN_LEAD, "", _SETTINGS_HEAD, *_make_run_rows()],
    )


def _kafka_secrets() -> str:
    *most, last = (f"`{name}`" for name in sorted(KAFKA_SECRETS))
    return f"{', '.join(most)} and {last}"


def _make_run_rows() -> list[str]:
    return [
        f"| `RUNNERS` |  | {FORM} | {_RUNNERS} |",
        f"| `{kafka_auth.SETTING}` | `0` | {kafka_auth.ALLOWED} | {_KAFKA_AUTH} |",
        "| `LOCAL_DIR` | `.local` |  | Folder of Kafka's logs, the images and what the parts keep. |",
        *(f"| `{name}` | `{number}` | a port | Port of {what}. |" for name, (number, what) in PORTS.items()),
    ]


def licences_page() -> str:
    """Every package of the locks with its licence."""
    page = FOLDER / LICENCES
    return _page(
        "Licences",
        "The licence of every Python package that the service installs (`requirements/`), as the package itself states "
        "it. The service's own licence is Apache-2.0. The Java packages of Kafka and S3Proxy, which `make run` "
        "downloads, state theirs in their jars.",
        "| package | version | licence | used by |\n| --- | --- | --- | --- |",
        licence_rows(page.read_text(encoding="utf-8") if page.exists() else ""),
    )


LICENCES = "licences.md"
PAGES: Mapping[str, Callable[[], str]] = {
    "errors.md": errors_page,
    "settings.md": settings_page,
    LICENCES: licences_page,
}


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
