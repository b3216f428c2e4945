"""What every request and answer passes, whatever the route: the form of the request's target, its host, and the headers
that tell a browser what it must not do with an answer."""

import re
from collections.abc import Sequence
from urllib.parse import unquote

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from functions.api.health import PROBES
from functions.api.hosts import Hosts
from functions.api.metrics import GatewayMetrics
from functions.api.problems import problem_of, render_problem
from tasks.errors import BROWSER_RULES, UnknownHost

_ABSOLUTE = re.compile(rb"https?://(?P<authority>[^/?#]*)(?P<path>/.*)?", re.IGNORECASE)


class Edge:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, hosts: Hosts, metrics: GatewayMetrics) -> None:
        """Wraps `app`, which is reached under these hosts."""
        self._app = app
        self._hosts = hosts
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on unless it is for another host."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in BROWSER_RULES.items():
                    headers.setdefault(name, value)
            await send(message)

        scope, authorities = _origin_form(scope)
        if scope["path"] in PROBES or (len(authorities) == 1 and authorities[0] in self._hosts) or self._hosts.any:
            await self._app(scope, receive, send_answer)
            return
        self._metrics.requests.labels("none", UnknownHost.status).inc()
        await render_problem(*problem_of(UnknownHost(), scope["path"]))(scope, receive, send_answer)


def _origin_form(scope: Scope) -> tuple[Scope, Sequence[str]]:
    """The request with a path as its target, and the hosts that it names.

    A server must take `GET http://host/path` too, and the host in it goes before the Host header (RFC 9112 3.2.2).
    """
    authorities = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    target = _ABSOLUTE.fullmatch(scope.get("raw_path") or b"")
    if target is None:
        return scope, authorities
    path: bytes = target["path"] or b"/"
    return (
        {**scope, "path": unquote(path.decode("latin-1")), "raw_path": path},
        [target["authority"].decode("latin-1")],
    )
