"""Log set-up shared by gateway and consumer: one line a step of a task's life, to a rotating file and to stdout."""

import json
import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from config.settings import Settings

_BUILT_IN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
MAX_BYTES, BACKUPS = 20_000_000, 5


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _BUILT_IN}


def _one_line(value: object) -> str:
    """The value as text that can neither end its line nor colour it: some of it was written by strangers."""
    text = str(value)
    return text if text.isprintable() else repr(text)


class TextFormatter(logging.Formatter):
    """`time level message name=value …`."""

    def __init__(self) -> None:
        """Times in UTC with milliseconds."""
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The line with what was said beside the message."""
        fields = "".join(f" {name}={_one_line(value)}" for name, value in _extra(record).items())
        return super().formatMessage(record) + fields


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{record.msecs:03.0f}",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def configure_logging(settings: Settings, name: str) -> None:
    """Send all logs to stdout and to `{LOG_DIR}/ai_image_gen.{name}.log`."""
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
