"""How every part logs: one line for each step of a task, to standard output and to a rotating file."""

import json
import logging
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from config.settings import Settings

_BUILT_IN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
MAX_BYTES, BACKUPS = 20_000_000, 5


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _BUILT_IN}


def _one_line(value: object) -> str:
    """The value as text without control characters: clients write some values, and must not forge or colour lines."""
    text = str(value)
    return text if text.isprintable() else repr(text)


def _printable(text: str) -> str:
    r"""The text with every line break, control character and the like as an escape such as \n or \u2028."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _utc(record: logging.LogRecord) -> str:
    """The record's time in UTC with milliseconds."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """`time level message name=value …`, the time in UTC. A traceback follows in lines of its own.

    Every further line of a record begins with blanks, so no text in a record can look like the beginning of another.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as text in which every character can be printed."""
        fields = "".join(f" {name}={_one_line(value)}" for name, value in _extra(record).items())
        trace = self.formatException(record.exc_info) if record.exc_info else record.exc_text
        further = [line for text in (trace, record.stack_info) if text for line in text.split("\n")]
        lines = [f"{_utc(record)} {record.levelname} {record.getMessage()}{fields}", *further]
        return "\n    ".join(map(_printable, lines))


class JsonFormatter(logging.Formatter):
    """One JSON object a line, the time in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        fields = {
            "time": _utc(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


class OnceFormatter(logging.Formatter):
    """Formats each record once. Two handlers write it, and a rotating file's formats it once more to learn its size."""

    def __init__(self, formatter: logging.Formatter) -> None:
        """The lines are those of `formatter`."""
        super().__init__()
        self._formatter = formatter
        self._last: tuple[logging.LogRecord | None, str] = (None, "")

    def format(self, record: logging.LogRecord) -> str:
        """The record's text. Threads may log at the same time: each reads and replaces the pair as a whole."""
        formatted, text = self._last
        if formatted is not record:
            text = self._formatter.format(record)
            self._last = (record, text)
        return text


def configure_logging(settings: Settings, name: str) -> None:
    """Send all logs to standard output and to `{LOG_DIR}/ai_image_gen.{name}.log`; LOG_DIR=-: to no file."""
    formatter = OnceFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if settings.log_dir != Path("-"):
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        path = settings.log_dir / f"ai_image_gen.{name}.log"
        handlers.append(RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = handlers
    root.setLevel(settings.log_level)
    for noisy in ("botocore", "boto3", "urllib3", "aiohttp.access", "httpx", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
