"""Connections that end at a request whose own end is ambiguous.

A proxy that reads Content-Length where the server reads Transfer-Encoding sees the next request begin at another byte.
In that way a client could hide a request from the proxy and have it served as another client's (RFC 9112, 6.1, 11.2).
h11 refuses two different lengths and every transfer coding but `chunked`, but accepts a length beside chunks.
"""

from typing import Any

import h11
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.h11_impl import H11Protocol


class _Reader(h11.Connection):
    """Refuses a request with Transfer-Encoding that also has a Content-Length, or that is older than HTTP/1.1."""

    def next_event(self) -> Any:
        """See h11.Connection."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            if b"transfer-encoding" in names and (b"content-length" in names or event.http_version < b"1.1"):
                raise h11.RemoteProtocolError("the end of the request is ambiguous")
        return event


class StrictConnection(H11Protocol):
    """uvicorn's connection. It answers a request whose end is ambiguous with 400 and closes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """See H11Protocol."""
        super().__init__(*args, **options)
        size = self.config.h11_max_incomplete_event_size
        self.conn = _Reader(h11.SERVER) if size is None else _Reader(h11.SERVER, size)

    def send_400_response(self, msg: str) -> None:
        """Answer 400 and close. Where the request has an answer already, only close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()


def serve_strictly() -> None:
    """Let uvicorn use this connection class, whichever parser of HTTP is installed. To be called before the server of
    this process starts."""
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{StrictConnection.__name__}"
