"""Which host names a gateway answers to.

A page from elsewhere can point its own host name at this gateway's address (DNS rebinding), and a browser then lets the
page read the answers. Such a request still carries the page's host name, so a gateway answers only to names of its own.
"""

import ipaddress
import re
from functools import lru_cache
from urllib.parse import urlsplit

from config.settings import Settings
from config.values import network

_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]{2,45})\]|(?P<name>[a-z0-9._-]{1,255}))(?::[0-9]{0,5})?", re.ASCII)

_LONGEST = 261
"""Characters of the longest name with a port."""
_REMEMBERED = 1024
"""Authorities whose answer is kept: every request asks, and nearly all clients write the same few."""


class Hosts:
    """The host names and addresses of a gateway."""

    def __init__(self, settings: Settings) -> None:
        """Loopback addresses, `localhost`, the address of LISTEN_HOST, the host of PUBLIC_URL and what ALLOWED_HOSTS
        names. Where that is empty and the gateway listens on more than loopback, it cannot know its names: then any
        host is its own."""
        listens = ipaddress.ip_address(settings.listen_host)
        own = [*settings.allowed_hosts, urlsplit(settings.public_url).hostname or "localhost", "localhost"]
        own += [] if listens.is_unspecified else [str(listens)]
        self.any = "*" in own or not (settings.allowed_hosts or listens.is_loopback)
        self._networks = [addresses for host in own if (addresses := network(host)) is not None]
        names = [_name(host) for host in own if network(host) is None]
        self._names = {name for name in names if not name.startswith("*")}
        self._domains = tuple(name[1:] for name in names if name.startswith("*."))
        self._is_own = lru_cache(_REMEMBERED)(self._names_this_gateway)

    def __contains__(self, authority: str) -> bool:
        """Whether `host` or `host:port`, as a client wrote it, names this gateway."""
        return self.any or (len(authority) <= _LONGEST and self._is_own(authority))

    def _names_this_gateway(self, authority: str) -> bool:
        match = _AUTHORITY.fullmatch(authority.lower())
        if match is None:
            return False
        try:
            address = ipaddress.ip_address(match["v6"] or match["name"])
        except ValueError:
            name = _name(match["name"] or "")
            return name in self._names or name.endswith(self._domains)
        return address.is_loopback or any(address in addresses for addresses in self._networks)


def _name(host: str) -> str:
    return host.lower().removesuffix(".")
