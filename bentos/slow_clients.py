"""The connections of a gateway: a client that is too slow loses its connection, and an idle one makes room.

uvicorn limits the size of a request's head, but neither the time that a request takes to arrive nor the time that a
client takes to read its answer. Without a limit, a client that sends a byte now and then, or reads nothing, would keep
its connection and its buffers without end. uvicorn's `limit_concurrency` refuses newcomers, also health probes, while
others hold connections that they do not use; here an idle connection is closed instead.
"""

import fcntl
import os
import resource
import socket
import struct
import sys
import termios
from asyncio import TimerHandle, Transport
from collections import defaultdict
from typing import ClassVar

import h11
from uvicorn.config import HTTP_PROTOCOLS

from bentos.framing import StrictConnection
from config.settings import Settings
from functions.api.limits import Proxies, largest_share, network_of

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_RESERVE = 64
"""Connections beyond the limit. A request on one of them is refused by the app, unless it is a health probe; so probes
are answered while every other connection is in use."""
_OTHER_FILES = 200
"""Open files of the process that are not connections of clients."""
_BYTES_ACKED = 120
"""The offset of tcpi_bytes_acked in Linux' `struct tcp_info` (linux/tcp.h)."""


class Crowd:
    """The connections of a server, by client, and which of them are idle: no request is being answered on them."""

    def __init__(self, most: int, most_per_client: int, proxies: Proxies) -> None:
        """`most`: connections at once. A client has its share of them, `most_per_client`, but a trusted proxy, which
        brings many clients, may have all."""
        self._most = most
        self._most_per_client = most_per_client
        self._proxies = proxies
        self._all: dict[Connection, str] = {}
        self._of_client: defaultdict[str, set[Connection]] = defaultdict(set)
        self._idle: defaultdict[str | None, dict[Connection, None]] = defaultdict(dict)
        """The idle connections of each client, and those of all (None), the longest idle first."""

    def add(self, connection: "Connection") -> bool:
        """Count a new connection. If there is no room for it, the connection that has been idle for longest is closed,
        one of the same client if this client has its share. False if even the reserve is in use."""
        host = connection.client[0] if connection.client else ""
        client = self._all[connection] = network_of(host)
        self._of_client[client].add(connection)
        greedy = len(self._of_client[client]) > self._most_per_client and not self._proxies.trust(host)
        if greedy or len(self._all) > self._most:
            for longest in tuple(self._idle[client if greedy else None])[:1]:
                self.remove(longest)
                longest.transport.close()
        self.set_idle(connection, idle=True)
        return len(self._all) <= self._most + _RESERVE

    def set_idle(self, connection: "Connection", *, idle: bool) -> None:
        """Note whether the connection is idle from now on."""
        client = self._all.get(connection)
        if client is None:
            return
        for connections in (self._idle[client], self._idle[None]):
            connections.pop(connection, None)
            if idle:
                connections[connection] = None

    def remove(self, connection: "Connection") -> None:
        """Forget a connection that is closed, if it is not forgotten already."""
        self.set_idle(connection, idle=False)
        client = self._all.pop(connection, None)
        if client is not None:
            self._of_client[client].discard(connection)
            if not self._of_client[client]:
                del self._of_client[client], self._idle[client]


class Connection(StrictConnection):
    """uvicorn's connection with a check every `patience` seconds. The connection is closed when between two checks the
    client did not finish the request that it is sending, or read less than `min_rate` bytes a second of an answer that
    waited for it all the time."""

    patience: ClassVar[float] = 20.0
    min_rate: ClassVar[int] = 1000
    crowd: ClassVar[Crowd] = Crowd(4096, 1000, Proxies(()))

    _timer: TimerHandle | None = None
    _incoming: object = None
    """The request that was incomplete at the last check, see `_request_in_progress`."""
    _sending: tuple[int, int] = (0, 0)
    """The value of `_acked_and_unread` at the last check."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if not self.crowd.add(self):
            transport.write(_FULL)
            transport.close()
        self._check()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._timer is not None:
            self._timer.cancel()
        self.crowd.remove(self)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """See H11Protocol: reads what has arrived and begins the next request."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self.crowd.set_idle(self, idle=False)

    def on_response_complete(self) -> None:
        """See H11Protocol: a request is answered, and the next may begin."""
        self.crowd.set_idle(self, idle=True)
        super().on_response_complete()

    def _should_upgrade(self) -> bool:
        """Never: a websocket would leave this class, and with it every limit. The service has none."""
        return False

    def _check(self) -> None:
        incoming, (acked, unread) = self._request_in_progress(), self._acked_and_unread()
        acked_before, unread_before = self._sending
        # Of what waited at the last check, the client has read enough only if all is read, or as much as the rate asks.
        owed = min(unread_before, max(1, int(self.min_rate * self.patience)))
        if (incoming is not None and incoming is self._incoming) or acked - acked_before < owed:
            self.transport.abort()
            return
        self._incoming, self._sending = incoming, (acked, unread)
        self._timer = self.loop.call_later(self.patience, self._check)

    def _request_in_progress(self) -> object:
        """An object that identifies the request whose end has not arrived yet; None where no request is incomplete. A
        new connection counts as an incomplete request."""
        idle = self.timeout_keep_alive_task is not None
        incomplete = self.conn.their_state is h11.SEND_BODY or (self.conn.their_state is h11.IDLE and not idle)
        return (self.cycle or self) if incomplete else None

    def _acked_and_unread(self) -> tuple[int, int]:
        """How many bytes the client has acknowledged, and how many wait for it; zeros where the system does not say."""
        sock = self.transport.get_extra_info("socket")
        if sys.platform != "linux" or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return 0, 0
        (in_flight,) = struct.unpack("=i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        (acked,) = struct.unpack_from("=Q", info, _BYTES_ACKED)
        return int(acked), int(in_flight) + self.transport.get_write_buffer_size()


def serve_with_patience() -> None:
    """Let uvicorn use this connection class. To be called before the server of this process is configured."""
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{Connection.__name__}"
    # uvicorn would believe X-Forwarded-For of every program on this machine, also where TRUSTED_PROXIES names none.
    os.environ["FORWARDED_ALLOW_IPS"] = ""


def limit_connections(settings: Settings) -> Settings:
    """Set the limits of this process. Raises the limit of open files as far as allowed. Returns the settings, with
    fewer connections if that leaves room for fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = soft if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    most = min(settings.max_connections, max(1, files - _OTHER_FILES - _RESERVE))
    settings = settings.model_copy(update={"max_connections": most})
    Connection.patience, Connection.min_rate = settings.client_timeout, settings.client_min_rate
    Connection.crowd = Crowd(most, largest_share(settings), Proxies(settings.trusted_proxies))
    return settings
