"""The requests that a runner takes: its consumers', and none that a web page made a browser send.

A browser sends a page's request to any address, also to one that only its own machine reaches. It then names the page
in Origin and Sec-Fetch-Site. A page whose name resolves to the runner's address (DNS rebinding) sends neither, but its
name stands in Host, where a consumer has an IP address. The secret stops everybody else.
"""

import hmac
import ipaddress
from collections.abc import Collection

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tasks.errors import CallerRefused
from tasks.runner_api import authorization

PROBES = frozenset({"/livez", "/readyz"})
"""Open to everybody: they say nothing but whether the runner works."""
WITHOUT_SECRET = PROBES | {"/metrics"}
LOOPBACK_NAME = "localhost"


class Guard:
    """ASGI middleware that answers 403 to requests of others than consumers."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], secret: SecretStr | None) -> None:
        """`hosts`: the names that Host may have beside IP addresses and localhost, in small letters. `secret`: what
        consumers must send; None: nothing."""
        self._app = app
        self._hosts = frozenset(hosts) | {LOOPBACK_NAME}
        self._authorization = authorization(secret.get_secret_value()).encode() if secret else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http" and (error := self._refusal(scope["path"], Headers(scope=scope))):
            answer = JSONResponse(error.problem(scope["path"]), error.status, media_type="application/problem+json")
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> CallerRefused | None:
        if path in PROBES:
            return None
        if "origin" in headers or {*headers.getlist("sec-fetch-site")} - {"none"}:
            return CallerRefused("A web page sent this request (it has an Origin or a Sec-Fetch-Site header).")
        if not self._may_be_host(headers.getlist("host")):
            return CallerRefused("Host must be an IP address, localhost or one of RUNNER_ALLOWED_HOSTS.")
        if self._authorization is not None and path not in WITHOUT_SECRET and not self._has_secret(headers):
            return CallerRefused("The request lacks the secret of this runner: RUNNER_SECRET must be the same at both.")
        return None

    def _may_be_host(self, values: list[str]) -> bool:
        return len(values) == 1 and ((host := _without_port(values[0]).lower()) in self._hosts or _is_ip_address(host))

    def _has_secret(self, headers: Headers) -> bool:
        assert self._authorization is not None
        values = headers.getlist("authorization")
        return len(values) == 1 and hmac.compare_digest(values[0].encode("latin-1"), self._authorization)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and (port.isascii() and port.isdigit()) and (":" not in name or name.endswith("]")) else host


def _is_ip_address(host: str) -> bool:
    literal = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return ipaddress.ip_address(literal).version == (4 if literal is host else 6)
    except ValueError:
        return False
