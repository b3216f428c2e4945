"""How much of a gateway one client may use: connections, event streams, waits, and unknown ids a second.

A client is an address and, where API keys are on, also the user of the key: a request counts for both, and is refused
if either has used up its share. A network of IPv6 (/64) counts as one address, because its holder has all of them.
"""

import contextlib
import functools
import ipaddress
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from config.settings import Settings
from functions.api.caller import Caller
from functions.api.health import PROBES
from functions.api.metrics import GatewayMetrics
from functions.api.problems import problem_of, render_problem
from tasks.errors import (
    GatewayFull,
    TaskError,
    TooManyConnections,
    TooManyStreams,
    TooManyUnknownIds,
    TooManyWaits,
)

_RETRY_AFTER = 1.0
_HELD = "ai_image_gen.held"
"""The key of the ASGI scope under which a request keeps the places that it holds until its answer is sent."""

_LONGEST_ADDRESS = 64
"""An address of IPv6 may end with the name of an interface, of any length, and addresses are cached."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxies:
    """The proxies whose X-Forwarded-For is believed."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Addresses and networks, as in TRUSTED_PROXIES."""
        self._networks = [ipaddress.ip_network(network) for network in networks]
        self.trust = functools.lru_cache(4096)(self._trust)

    def _trust(self, host: str) -> bool:
        """Whether this is the address of a trusted proxy."""
        address = _address(host)
        return address is not None and any(address in network for network in self._networks)

    def client(self, scope: Scope) -> str:
        """The client of the request, as limits count it.

        Each proxy appends the address that the request came from. Read from the right, the first address that is no
        trusted proxy is therefore the client, and a client may write anything to the left of it. An entry that is no
        address ends the walk at the proxy that wrote it.
        """
        host = str(scope["client"][0]) if scope.get("client") else ""
        if self._networks and self.trust(host):
            rest = ",".join(Headers(scope=scope).getlist("x-forwarded-for"))
            while rest and self.trust(host):
                rest, _, entry = rest.rpartition(",")
                hop = _without_port(entry.strip())
                if _address(hop) is None:
                    break
                host = hop
        return network_of(host)


class Places:
    """Places of one kind, of which each client may hold `most` at once."""

    def __init__(self, most: int, error: type[TaskError]) -> None:
        """`error` is raised where a client has no place left."""
        self._most = most
        self._error = error
        self._held: Counter[str] = Counter()

    @contextlib.contextmanager
    def hold(self, clients: Sequence[str]) -> Iterator[None]:
        """Hold one place of each of these clients. Raises the error if one of them holds all of its places."""
        if any(self._held[client] >= self._most for client in clients):
            raise self._error(retry_after=_RETRY_AFTER)
        self._held.update(clients)
        try:
            yield
        finally:
            for client in clients:
                self._held[client] -= 1
                if not self._held[client]:
                    del self._held[client]  # so that clients of the past take no memory


class RatePerSecond:
    """How often each client may do something in one second of the clock."""

    def __init__(self, most: int, error: type[TaskError], now: Callable[[], float]) -> None:
        """`now`: seconds since any fixed moment."""
        self._most = most
        self._error = error
        self._now = now
        self._second = 0
        self._counts: Counter[str] = Counter()

    def spend(self, clients: Collection[str]) -> None:
        """Each of these clients does it once. Raises the error if one of them has used up this second."""
        if (second := int(self._now())) != self._second:
            self._second = second
            self._counts.clear()
        if any(self._counts[client] >= self._most for client in clients):
            raise self._error(retry_after=_RETRY_AFTER)
        self._counts.update(clients)

    def give_back(self, clients: Iterable[str]) -> None:
        """What these clients have just spent does not count."""
        for client in clients:
            # The next second may have begun meanwhile.
            self._counts[client] = max(0, self._counts[client] - 1)


class ClientLimits:
    """The limits of a gateway's clients."""

    def __init__(self, settings: Settings, now: Callable[[], float]) -> None:
        """`now`: seconds since any fixed moment."""
        most = settings.max_connections
        self.proxies = Proxies(settings.trusted_proxies)
        self.all = Places(most, GatewayFull)
        self.connections = Places(largest_share(settings), TooManyConnections)
        self.streams = Places(settings.max_streams_per_client, TooManyStreams)
        self.waits = Places(settings.max_waits_per_client, TooManyWaits)
        self.unknown_ids = RatePerSecond(settings.max_unknown_ids_per_second, TooManyUnknownIds, now)

    def admit(self, caller: Caller, scope: Scope) -> Caller:
        """The caller with its address. From now until the answer is sent, the request holds a place of its user too.
        Raises TooManyConnections."""
        if caller.user is not None:
            scope[_HELD].enter_context(self.connections.hold([_name_of_user(caller.user)]))
        return replace(caller, address=scope["client"][0])


class LimitRequests:
    """ASGI middleware: each request holds a place of its client until its answer is sent. It writes the client that it
    counts into the scope, as `client`."""

    def __init__(self, app: ASGIApp, limits: ClientLimits, metrics: GatewayMetrics) -> None:
        """Wraps `app`."""
        self._app = app
        self._limits = limits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 429 or 503."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        client = self._limits.proxies.client(scope)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(self._limits.connections.hold([client]))
                held.enter_context(self._limits.all.hold([""]))
            except TaskError as error:
                self._metrics.requests.labels("none", error.status).inc()
                problem, headers = problem_of(error, scope["path"])
                await render_problem(problem, headers)(scope, receive, send)
                return
            await self._app({**scope, "client": (client, 0), _HELD: held}, receive, send)


def largest_share(settings: Settings) -> int:
    """Connections that one client may use: some are always left for the others."""
    return min(settings.max_connections_per_client, max(1, settings.max_connections * 3 // 4))


def clients_of(caller: Caller) -> list[str]:
    """Whom a request of the caller counts for."""
    address = [caller.address] if caller.address else []
    return address if caller.user is None else [*address, _name_of_user(caller.user)]


def _name_of_user(user: str) -> str:
    return f"user {user}"  # a user may be named like an address


@functools.lru_cache(4096)
def network_of(host: str) -> str:
    """The address that stands for all addresses of the same client. A text that is no address stands for itself."""
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return host if address is None else str(address)


def _address(host: str) -> Address | None:
    """The address; one of IPv4 that is written as IPv6 (::ffff:192.0.2.1) as IPv4."""
    if len(host) > _LONGEST_ADDRESS:
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _without_port(entry: str) -> str:
    """The address of 192.0.2.1:8080, [2001:db8::1]:8080 and "[2001:db8::1]"."""
    entry = entry.strip('"')
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry
