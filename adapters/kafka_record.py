"""From a message of the Kafka client to a `Record`."""

import operator
from collections.abc import Mapping

from confluent_kafka import Message

from config.settings import Settings
from tasks.log import Place, Record, RecordKind


def record_kinds(settings: Settings) -> Mapping[str, RecordKind]:
    """The topics of the log that can be read, by full name, and the kind of record each of them holds."""
    return {
        settings.topic("events"): "event",
        settings.topic("models"): "card",
        settings.topic("previews"): "preview",
        **dict.fromkeys(settings.lane_names, "task"),
    }


def to_record(message: Message, kinds: Mapping[str, RecordKind]) -> Record:
    """The message as a record. A key that is not UTF-8 is decoded with replacement characters."""
    topic = message.topic() or ""
    key = message.key()
    return Record(
        kind=kinds[topic],
        place=Place(topic, message.partition() or 0, message.offset() or 0),
        timestamp=message.timestamp()[1] / 1000,
        key=key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key or ""),
        value=_bytes(message.value()),
        headers=_headers(message),
    )


# For a header name that is not UTF-8, confluent-kafka 2.16 returns a list that contains NULL and sets an exception.
# Once CPython has specialised the call `message.headers()`, it misses that exception and dereferences the NULL, which
# is a segmentation fault. The call through a methodcaller is never specialised, so the exception is always raised.
_call_headers = operator.methodcaller("headers")


def _headers(message: Message) -> dict[str, bytes]:
    try:
        return {name: _bytes(value) for name, value in _call_headers(message) or []}
    except (UnicodeDecodeError, SystemError):
        # The client then gives no headers. The service only copies them to a dead letter, so it can go on without.
        return {}


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return str(value).encode() if value is not None else b""
