"""Connections that are closed when their client is too slow.

uvicorn limits the size of a request's head, but neither the time that a request takes to arrive nor the time that a
client takes to read its answer. Without a limit, a client that sends a byte now and then, or reads nothing, would keep
its connection and its buffers without end.
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

from bentos.framing import StrictConnection

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_OTHER_FILES = 200
"""Open files of the process that are not connections of clients."""
_BYTES_ACKED = 120
"""The offset of tcpi_bytes_acked in Linux' `struct tcp_info` (linux/tcp.h)."""


class Connection(StrictConnection):
    """uvicorn's connection with a check every `patience` seconds. The connection is closed when between two checks the
    client did not finish the request that it is sending, or received nothing of an answer that is on its way. The
    connection after the first `most` is answered 503."""

    patience: ClassVar[float] = 20.0
    most: ClassVar[int] = 4096

    _timer: asyncio.TimerHandle | None = None
    _incoming: object = None
    """The request that was incomplete at the last check, see `_request_in_progress`."""
    _acked: int | None = None
    """The value of `_bytes_acked` at the last check."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(_FULL)
            transport.close()
        self._check()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _check(self) -> None:
        incoming, acked = self._request_in_progress(), self._bytes_acked()
        if (incoming is not None and incoming is self._incoming) or (acked is not None and acked == self._acked):
            self.transport.abort()
            return
        self._incoming, self._acked = incoming, acked
        self._timer = self.loop.call_later(self.patience, self._check)

    def _request_in_progress(self) -> object:
        """An object that identifies the request whose end has not arrived yet; None where no request is incomplete. A
        new connection counts as an incomplete request."""
        idle = self.timeout_keep_alive_task is not None
        incomplete = self.conn.their_state is h11.SEND_BODY or (self.conn.their_state is h11.IDLE and not idle)
        return (self.cycle or self) if incomplete else None

    def _bytes_acked(self) -> int | None:
        """How many bytes the client has acknowledged while more are in flight; None when nothing is in flight."""
        sock = self.transport.get_extra_info("socket")
        if sys.platform != "linux" or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        (in_flight,) = struct.unpack("=i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))
        if not in_flight and not self.transport.get_write_buffer_size():
            return None
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return int(struct.unpack_from("=Q", info, _BYTES_ACKED)[0])


def serve_with_patience() -> None:
    """Let uvicorn use this connection class. To be called before the server of this process starts."""
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{Connection.__name__}"


def limit_connections(patience: float, most: int) -> None:
    """Set the limits. Raises the limit of open files as far as allowed, and lowers `most` to what that leaves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = soft if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    Connection.patience, Connection.most = patience, min(most, max(1, files - _OTHER_FILES))
