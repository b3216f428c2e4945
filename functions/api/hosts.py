"""Which host names a gateway answers to.

A page from elsewhere can point its own host name at this gateway's address (DNS rebinding), and a browser then lets it
read the answers. Such a request still carries the page's host name, so a gateway that needs no key answers only to names
of its own.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from config.settings import Settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]{2,45})\]|(?P<name>[a-z0-9._-]{1,255}))(?::[0-9]{0,5})?", re.ASCII)
_LOOPBACK_NAME = "localhost"


class Hosts:
    """The host names and addresses of a gateway."""

    def __init__(self, settings: Settings) -> None:
        """Loopback addresses, `localhost`, the host of PUBLIC_URL and what ALLOWED_HOSTS names. Where that is empty and
        the gateway listens on more than loopback, it cannot know its names: then any host is its own."""
        named = settings.allowed_hosts
        self.any = "*" in named or not (named or ipaddress.ip_address(settings.listen_host).is_loopback)
        public = urlsplit(settings.public_url).hostname
        own = {_LOOPBACK_NAME, *(name for name in named if not _network(name)), *([public] if public else ())}
        self._names = {name.lower().rstrip(".") for name in own if not name.startswith("*")}
        self._domains = tuple(name.lower()[1:] for name in own if name.startswith("*."))
        self._networks = [network for name in (*named, public or "") if (network := _network(name))]

    def __contains__(self, authority: str) -> bool:
        """Whether `host` or `host:port`, as a client wrote it, names this gateway."""
        if self.any:
            return True
        match = _AUTHORITY.fullmatch(authority.lower())
        if match is None:
            return False
        name = match["name"]
        address = _address(match["v6"] or name)
        if address is not None:
            return address.is_loopback or any(address in network for network in self._networks)
        if name is None:
            return False
        name = name.removesuffix(".")
        return name in self._names or name.endswith(self._domains)


def check_names(names: Iterable[str]) -> Sequence[str]:
    """The names that ALLOWED_HOSTS may not have."""
    return [name for name in names if name != "*" and not _network(name) and not _NAME.fullmatch(name.lower())]


_NAME = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9._-]{0,253}[a-z0-9_])?\.?", re.ASCII)


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None
