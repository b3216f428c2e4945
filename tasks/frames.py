"""The binary frames a runner streams: header length, payload length (4 bytes each, big endian), JSON header, payload.

A stream of `accepted, started, step*, preview*, image*, [error], end`; a stream without `end` was cut off.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_LENGTHS = struct.Struct(">II")
MAX_HEADER = 64 * 1024
MAX_PAYLOAD = 256 * 1024 * 1024


class BrokenFrame(ValueError):
    """The bytes are not a stream of frames."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of the stream; `header` is JSON, `payload` raw bytes (a picture) or empty."""

    kind: str
    header: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""


def encode(kind: str, payload: bytes = b"", **header: Any) -> bytes:
    """The frame as bytes."""
    head = json.dumps({"kind": kind, **header}, separators=(",", ":")).encode()
    return _LENGTHS.pack(len(head), len(payload)) + head + payload


class Decoder:
    """Cuts a byte stream, arriving in any pieces, into frames."""

    def __init__(self) -> None:
        """A decoder at the start of a stream."""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Every frame that `data` completes. Raises BrokenFrame."""
        self._buffer += data
        while len(self._buffer) >= _LENGTHS.size:
            head, payload = _LENGTHS.unpack_from(self._buffer)
            if head > MAX_HEADER or payload > MAX_PAYLOAD:
                raise BrokenFrame(f"a frame of {head}+{payload} bytes is too large")
            end = _LENGTHS.size + head + payload
            if len(self._buffer) < end:
                return
            try:
                header = json.loads(self._buffer[_LENGTHS.size : _LENGTHS.size + head])
                kind = header.pop("kind")
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
                raise BrokenFrame(f"a frame header is not JSON with a kind: {error}") from error
            if not isinstance(kind, str):
                raise BrokenFrame("a frame's kind is not a name")
            body = bytes(self._buffer[_LENGTHS.size + head : end])
            del self._buffer[:end]
            yield Frame(kind, header, body)
