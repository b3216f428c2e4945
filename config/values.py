"""The kinds of value that a setting may have, and how each is read from the text of an environment variable."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic.fields import FieldInfo

LONGEST_TOPIC = 249
"""Characters of the longest name of a topic that Kafka takes."""
OWN_TOPICS = frozenset({"events", "models", "previews", "dead_letter"})
"""What follows the prefix in the names of the topics that are not lanes."""


@dataclass(frozen=True)
class Allowed:
    """The allowed values of a setting, in words: for a setting whose type and limits do not show them."""

    words: str


def split(value: Any) -> Any:
    """The parts of a list in text. Any other value as it is."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def pairs(value: Any) -> Any:
    """The pairs of a list name=value in text, by name. Any other value as it is. Raises ValueError."""
    if not isinstance(value, str):
        return value
    items: dict[str, str] = {}
    for part in split(value):
        name, equals, item = map(str.strip, part.partition("="))
        if not name or not equals or not item:
            raise ValueError("a name or a value is missing")
        if name in items:
            raise ValueError(f"{name} is named twice")
        items[name] = item
    return items


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The network, or the network of this one address; None for any other text."""
    try:
        return ipaddress.ip_network(text.removeprefix("[").removesuffix("]"), strict=False)
    except ValueError:
        return None


_USER = re.compile(r"//[^/?#]*@")
_HOST_NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9._-]{0,250}[a-z0-9_])?\.?", re.ASCII | re.IGNORECASE)


def _check_url(url: str | None) -> str | None:
    """The address, if it is one of HTTP without a user name: addresses are logged and given to others."""
    if url and not url.startswith(("http://", "https://")):
        raise ValueError("an address begins with neither")
    if url and _USER.search(url):
        raise ValueError("it names a user")
    return url


def _check_urls(urls: tuple[str, ...]) -> tuple[str, ...]:
    for url in urls:
        _check_url(url)
    return urls


def _check_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    for text in networks:
        ipaddress.ip_network(text)
    return networks


def _check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    for host in hosts:
        if host != "*" and network(host) is None and not _HOST_NAME.fullmatch(host):
            raise ValueError(f"{host!r} is none of them")
    return hosts


def _check_address(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        raise ValueError("127.0.0.1 and 0.0.0.0, for example") from None


Lanes = Annotated[
    dict[str, float],
    BeforeValidator(pairs),
    Allowed("name=weight separated by commas, each weight from 0.001 to 1,000"),
]
Shards = Annotated[
    dict[str, int], BeforeValidator(pairs), Allowed("model=n separated by commas, each n a whole number")
]
Aliases = Annotated[dict[str, str], BeforeValidator(pairs), Allowed("name=model separated by commas")]
_NO_USER = "without a user name or password"
Url = Annotated[
    str | None, AfterValidator(_check_url), Allowed(f"an address that begins with http:// or https://, {_NO_USER}")
]
Urls = Annotated[
    tuple[str, ...],
    BeforeValidator(split),
    AfterValidator(_check_urls),
    Allowed(f"addresses that begin with http:// or https://, {_NO_USER}, separated by commas"),
]
PublicUrl = Annotated[
    str,
    AfterValidator(_check_url),
    Allowed(f"an address that begins with http:// or https:// and does not end with /, {_NO_USER}"),
]
Networks = Annotated[
    tuple[str, ...],
    BeforeValidator(split),
    AfterValidator(_check_networks),
    Allowed("IP addresses and networks separated by commas"),
]
Hosts = Annotated[
    tuple[str, ...],
    BeforeValidator(split),
    AfterValidator(_check_hosts),
    Allowed("host names without a port, *.domain, IP addresses and networks, separated by commas, or *"),
]
Address = Annotated[str, AfterValidator(_check_address), Allowed("an IP address")]
Secret = SecretStr | None
"""A setting of this type is never shown, and may also be read from a file: see config.secret_files."""


def _check_sent_secret(secret: Secret) -> Secret:
    """The secret, if a header can carry it. Raises ValueError."""
    if secret is not None and not re.fullmatch(r"[!-~]{16,200}", secret.get_secret_value()):
        raise ValueError("`python -c 'import secrets; print(secrets.token_urlsafe())'` makes one")
    return secret


def _check_host_names(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """The names in small letters. Raises ValueError."""
    for host in hosts:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", host):
            raise ValueError(f"{host!r} is none")
    return tuple(host.lower() for host in hosts)


SentSecret = Annotated[Secret, AfterValidator(_check_sent_secret), Allowed("16 to 200 visible ASCII characters")]
"""A secret that is sent in a header of HTTP."""
HostNames = Annotated[
    tuple[str, ...],
    BeforeValidator(split),
    AfterValidator(_check_host_names),
    Allowed("host names without port, separated by commas"),
]


def check_lanes(lanes: Mapping[str, float], prefix: str) -> None:
    """Raise ValueError unless each lane has a weight and a name that no other topic can have.

    A name with a dot could be the short name of one lane and the end of another's: `batch` and `vip.batch`.
    """
    if not lanes:
        raise ValueError("no lane is named")
    for lane, weight in lanes.items():
        if not 0.001 <= weight <= 1000:
            raise ValueError(f"the weight of {lane} is {weight:g}")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", lane):
            raise ValueError(f"the lane {lane!r} has a character other than A-Z a-z 0-9 _ -")
        if lane in OWN_TOPICS:
            raise ValueError(f"the service already has a topic named {lane}")
        if len(topic := f"{prefix}.{lane}") > LONGEST_TOPIC:
            raise ValueError(f"the topic {topic} has more than {LONGEST_TOPIC} characters")


def check_aliases(aliases: Mapping[str, str], model: str, others: Mapping[str, str]) -> None:
    """Raise ValueError if an alias would mean two models. `model`: the model of this process, or empty; `others`: the
    aliases of another setting."""
    for name, target in aliases.items():
        if name == model or name in aliases.values() or name in others.values():
            raise ValueError(f"{name} is a model")
        if others.get(name, target) != target:
            raise ValueError(f"{name} is a name of {others[name]}")
        if target in others:
            raise ValueError(f"{target} is a name of {others[target]}")


def without_user(text: str) -> str:
    """The text without the user names and passwords of the addresses in it."""
    return _USER.sub("//***@", text)


def allowed(field: FieldInfo) -> str:
    """The allowed values of the setting, in words; empty if every value is allowed."""
    for rule in field.metadata:
        if isinstance(rule, Allowed):
            return rule.words
    if field.annotation is bool:
        return "true or false"
    if get_origin(field.annotation) is Literal:
        return " or ".join(str(value) for value in get_args(field.annotation))
    if field.annotation not in (int, float):
        return ""
    words = {"ge": "from", "gt": "above", "le": "to"}
    limits = [
        f"{words[name]} {getattr(rule, name):,}" for name in words for rule in field.metadata if hasattr(rule, name)
    ]
    return " ".join(["a whole number" if field.annotation is int else "a number", *limits])


def is_secret(field: FieldInfo) -> bool:
    """Whether the setting holds a secret."""
    return SecretStr in (field.annotation, *get_args(field.annotation))
