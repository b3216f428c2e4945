"""A host name with several addresses counts as several runners."""

import asyncio
import socket

import pytest

from adapters.runner_client import resolve


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The addresses that the name server gives, by name. Other names do not exist."""
    addresses: dict[str, list[str]] = {}

    async def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if host not in addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses[host]]

    monkeypatch.setattr(
        asyncio.BaseEventLoop, "getaddrinfo", lambda _, host, port, **more: getaddrinfo(host, port, **more)
    )
    return addresses


async def test_each_address_of_a_name_is_one_runner(names: dict[str, list[str]]):
    names["runners"] = ["10.0.0.2", "10.0.0.1", "10.0.0.2"]
    assert await resolve(["http://runners:3001"]) == ["http://10.0.0.1:3001", "http://10.0.0.2:3001"]


async def test_a_name_without_addresses_is_skipped_and_the_others_stay(names: dict[str, list[str]]):
    names["b"] = ["10.0.0.3"]
    assert await resolve(["http://a:3001", "http://b"]) == ["http://10.0.0.3:80"]


async def test_an_address_is_used_as_it_is():
    assert await resolve(["http://127.0.0.1:3001"]) == ["http://127.0.0.1:3001"]


async def test_a_runner_behind_tls_keeps_the_name_that_its_certificate_has(names: dict[str, list[str]]):
    names["a"] = ["10.0.0.1", "10.0.0.2"]
    assert await resolve(["https://a", "http://a"]) == ["https://a", "http://10.0.0.1:80", "http://10.0.0.2:80"]
