"""A connection that ends where its client keeps it waiting.

uvicorn limits the size of a request's head, but not the time a request takes to come, nor the time an answer takes to
be read: a client that sends a byte now and then, or reads nothing, would hold its connection and its buffers for ever.
"""

import asyncio
import fcntl
import resource
import socket
import struct
import sys
import termios
from typing import ClassVar

import h11
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.h11_impl import H11Protocol

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_OTHER_FILES = 200
"""Open files that are no client's connection."""
_BYTES_ACKED = 120
"""Where `struct tcp_info` of Linux has it."""


class Connection(H11Protocol):
    """uvicorn's connection, looked at every `patience` seconds. It is cut off where between two looks the client did
    not finish the request it was sending, or took nothing of what it was sent. Where there are `most` already, a new
    one is answered 503."""

    patience: ClassVar[float] = 20.0
    most: ClassVar[int] = 4096

    _timer: asyncio.TimerHandle | None = None
    _awaited: object = None
    _sent: int | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(_FULL)
            transport.close()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        awaited, sent = self._request_in_progress(), self._sent_of_more()
        if (awaited is not None and awaited is self._awaited) or (sent is not None and sent == self._sent):
            self.transport.abort()
            return
        self._awaited, self._sent = awaited, sent
        self._timer = self.loop.call_later(self.patience, self._look)

    def _request_in_progress(self) -> object:
        """What stands for the request that is only partly here, the first one of all included; None: there is none."""
        idle = self.timeout_keep_alive_task is not None
        coming = self.conn.their_state is h11.SEND_BODY or (self.conn.their_state is h11.IDLE and not idle)
        return (self.cycle or self) if coming else None

    def _sent_of_more(self) -> int | None:
        """How many bytes have arrived at the client, of more that are on their way; None: nothing is."""
        sock = self.transport.get_extra_info("socket")
        if sys.platform != "linux" or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        (on_their_way,) = struct.unpack("=i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))
        if not on_their_way and not self.transport.get_write_buffer_size():
            return None
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return int(struct.unpack_from("=Q", info, _BYTES_ACKED)[0])


def serve_with_patience() -> None:
    """Let the server of this process, started later, use this kind of connection."""
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{Connection.__name__}"


def limit_connections(patience: float, most: int) -> None:
    """Set the limits; `most` is lowered to what the limit of open files, raised as far as it goes, leaves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = soft if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    Connection.patience, Connection.most = patience, min(most, max(1, files - _OTHER_FILES))
