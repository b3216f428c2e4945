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


def _utc(record: logging.LogRecord) -> str:
    """The record's time in UTC with milliseconds."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """`time level message name=value …`, the time in UTC."""

    def __init__(self) -> None:
        """Sets the format of the line."""
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's
        """The record's time in UTC with milliseconds."""
        return _utc(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The line, followed by the fields given as `extra`."""
        fields = "".join(f" {name}={_one_line(value)}" for name, value in _extra(record).items())
        return super().formatMessage(record) + fields


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


def configure_logging(settings: Settings, name: str) -> None:
    """Send all logs to standard output and to `{LOG_DIR}/ai_image_gen.{name}.log`; LOG_DIR=-: to no file."""
    formatter = JsonFormatter() if settings.log_format == "json" else TextFormatter()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if settings.log_dir != Path("-"):
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        path = settings.log_dir / f"ai_image_gen.{name}.log"
        handlers.append(RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=BACKUPS))
    for handler in handlers:
        handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = handlers
    root.setLevel(settings.log_level)
    for noisy in ("botocore", "boto3", "urllib3", "aiohttp.access", "httpx", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
