"""What one client may use of a gateway: connections, streams, waits and unknown ids; and who counts as one client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.clock import settle
from functions.api.api_keys import new_key
from functions.api.app import GatewayApp
from functions.api.health import PROBES
from functions.api.limits import Places, Proxies, network_of
from tasks.errors import TooManyWaits
from tests.support.gateway_world import BODY, GatewayWorld, is_problem, world

ONE, OTHER = "192.0.2.1", "192.0.2.2"
WAIT = {"Prefer": "wait=60"}


def at(gateway: GatewayApp, address: str, **headers: str) -> httpx.AsyncClient:
    """A client of this address."""
    transport = httpx.ASGITransport(gateway.app, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", headers=headers)


@contextlib.asynccontextmanager
async def open_requests(*requests: Any) -> AsyncIterator[None]:
    """Requests that are under way. They are ended as if their client hung up."""
    pending = [asyncio.ensure_future(request) for request in requests]
    await settle()
    assert not any(request.done() for request in pending)
    try:
        yield
    finally:
        for request in pending:
            request.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await settle()


async def submitted(w: GatewayWorld, client: httpx.AsyncClient) -> str:
    task_id: str = (await client.post("/generate_image", json=BODY)).json()["task_id"]
    return task_id


def refused(answer: httpx.Response, code: str) -> None:
    is_problem(answer, 429, code)
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("limit", ["max_streams_per_client", "max_connections_per_client"])
async def test_a_client_with_all_its_streams_is_refused_and_another_is_not(limit: str):
    async with world(**{limit: 2}) as w:
        client, gateway = await w.gateway()
        url = f"/events/{await submitted(w, client)}"
        one, other = at(gateway, ONE), at(gateway, OTHER)
        async with open_requests(one.get(url), one.get(url), other.get(url)):
            assert gateway.index.waiting == 3
            refused(await one.get(url), limit.removesuffix("_per_client").replace("max_", "too_many_"))
            assert gateway.index.waiting == 3
        async with open_requests(one.get(url), one.get(url)):
            assert gateway.index.waiting == 2


async def test_a_client_with_all_its_waits_is_refused_before_a_task_is_appended():
    async with world(max_waits_per_client=2) as w:
        client, gateway = await w.gateway()
        url = f"/check_status/{await submitted(w, client)}"
        one, other = at(gateway, ONE), at(gateway, OTHER)
        waits = one.get(url, headers=WAIT), one.post("/generate_image", json=BODY, headers=WAIT)
        async with open_requests(*waits):
            refused(await one.get(url, headers=WAIT), "too_many_waits")
            before = len(w.tasks())
            refused(await one.post("/generate_image", json=BODY, headers=WAIT), "too_many_waits")
            assert len(w.tasks()) == before
            assert (await one.get(url)).status_code == 200
            async with open_requests(other.get(url, headers=WAIT)):
                pass
        async with open_requests(one.get(url, headers=WAIT), one.get(url, headers=WAIT)):
            pass


async def test_the_defaults_let_one_address_hold_100_waits_and_500_streams():
    async with world() as w:
        client, gateway = await w.gateway()
        task_id = await submitted(w, client)
        waits = [client.get(f"/check_status/{task_id}", headers=WAIT) for _ in range(100)]
        streams = [client.get(f"/events/{task_id}") for _ in range(500)]
        async with open_requests(*waits, *streams):
            assert gateway.index.waiting == 600
            assert (await client.get(f"/check_status/{task_id}")).status_code == 200


async def test_one_client_leaves_a_quarter_of_the_connections_to_the_others():
    async with world(max_connections=8) as w:
        client, gateway = await w.gateway()
        url = f"/events/{await submitted(w, client)}"
        one, other = at(gateway, ONE), at(gateway, OTHER)
        async with open_requests(*(one.get(url) for _ in range(6))):
            refused(await one.get("/models"), "too_many_connections")
            async with open_requests(other.get(url), other.get(url)):
                answer = await at(gateway, "192.0.2.3").get("/models")
                is_problem(answer, 503, "gateway_full")
                assert answer.headers["retry-after"] == "1"
                for path in PROBES:
                    assert (await one.get(path)).status_code == 200


async def test_the_user_of_a_key_is_one_client_from_wherever_it_calls(tmp_path: Path):
    (ada, ada_line), (bob, bob_line) = new_key("ada"), new_key(ONE)
    (tmp_path / "keys").write_text("\n".join(line.model_dump_json(exclude_none=True) for line in (ada_line, bob_line)))
    limits = {"max_streams_per_client": 1, "max_waits_per_client": 1, "max_connections_per_client": 2}
    async with world(api_keys_file=tmp_path / "keys", **limits) as w:
        _, gateway = await w.gateway()
        one, other = (at(gateway, address, Authorization=f"Bearer {ada}") for address in (ONE, OTHER))
        task_id = await submitted(w, one)
        url = f"/events/{task_id}"
        async with open_requests(one.get(url)):
            refused(await other.get(url), "too_many_streams")
            async with open_requests(other.get(f"/check_status/{task_id}", headers=WAIT)):
                refused(
                    await at(gateway, "192.0.2.3", Authorization=f"Bearer {ada}").get("/models"), "too_many_connections"
                )
                # A user who is named like an address is not that address.
                assert (await at(gateway, OTHER, Authorization=f"Bearer {bob}").get("/models")).status_code == 200
        assert (await other.get("/models")).status_code == 200


async def test_a_client_that_asks_for_unknown_ids_still_gets_the_tasks_that_are_known():
    async with world(max_unknown_ids_per_second=3) as w:
        client, gateway = await w.gateway()
        task_id = await submitted(w, client)
        for number in range(3):
            is_problem(await client.get(f"/check_status/{number:032x}"), 404, "unknown_task")
        for path in ("/check_status/", "/events/", "/get_image/", "/preview/"):
            refused(await client.get(path + "f" * 32), "too_many_unknown_ids")
        refused(await client.get("/check_status/x"), "too_many_unknown_ids")
        assert (await client.get(f"/check_status/{task_id}")).status_code == 200
        is_problem(await at(gateway, OTHER).get("/check_status/x"), 404, "unknown_task")
        await w.clock.advance(1)
        is_problem(await client.get("/check_status/" + "f" * 32), 404, "unknown_task")


async def test_with_all_unknown_ids_used_a_task_of_another_user_looks_as_one_that_is_none(tmp_path: Path):
    (ada, ada_line), (bob, bob_line) = new_key("ada"), new_key("bob")
    (tmp_path / "keys").write_text("\n".join(line.model_dump_json(exclude_none=True) for line in (ada_line, bob_line)))
    async with world(api_keys_file=tmp_path / "keys", max_unknown_ids_per_second=1) as w:
        _, gateway = await w.gateway()
        task_id = await submitted(w, at(gateway, ONE, Authorization=f"Bearer {ada}"))
        other = at(gateway, OTHER, Authorization=f"Bearer {bob}")
        is_problem(await other.get(f"/check_status/{task_id}"), 404, "unknown_task")
        answers = [await other.get(f"/check_status/{name}") for name in (task_id, "0" * 32)]
        assert [answer.json()["code"] for answer in answers] == ["too_many_unknown_ids"] * 2


async def test_a_stream_that_is_only_asked_for_its_head_takes_no_place():
    async with world(max_streams_per_client=1) as w:
        client, gateway = await w.gateway()
        url = f"/events/{await submitted(w, client)}"
        for _ in range(3):
            assert (await client.head(url)).status_code == 200
        async with open_requests(client.get(url)):
            assert gateway.index.waiting == 1


async def test_clients_behind_a_trusted_proxy_are_counted_one_by_one():
    async with world(max_streams_per_client=1, trusted_proxies=("10.0.0.0/8",)) as w:
        client, gateway = await w.gateway()
        url = f"/events/{await submitted(w, client)}"
        one, other = (at(gateway, "10.0.0.7", **{"X-Forwarded-For": address}) for address in (ONE, OTHER))
        liar = at(gateway, "192.0.2.9", **{"X-Forwarded-For": "203.0.113.5"})
        async with open_requests(one.get(url), other.get(url), liar.get(url)):
            refused(await one.get(url), "too_many_streams")
            refused(await liar.get(url, headers={"X-Forwarded-For": "203.0.113.6"}), "too_many_streams")


PROXIES = Proxies(["10.0.0.0/8", "192.0.2.77", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "lines", "client"),
    [
        (ONE, [], ONE),
        (ONE, ["203.0.113.5"], ONE),
        ("10.1.1.1", [], "10.1.1.1"),
        ("10.1.1.1", [ONE], ONE),
        ("::ffff:10.1.1.1", [ONE], ONE),
        ("fd00::1", [f"203.0.113.5, {ONE}"], ONE),
        ("10.1.1.1", [f"203.0.113.5, {ONE}, 192.0.2.77, 10.9.9.9"], ONE),
        ("10.1.1.1", ["203.0.113.5", ONE, "192.0.2.77"], ONE),
        ("10.1.1.1", [f"{ONE}:4711"], ONE),
        ("10.1.1.1", [f" {ONE} "], ONE),
        ("10.1.1.1", ["[2001:db8::5]:4711"], "2001:db8::/64"),
        ("10.1.1.1", ['"[2001:db8::5]"'], "2001:db8::/64"),
        ("10.1.1.1", [f"{ONE}, unknown, 192.0.2.77"], "192.0.2.77"),
        ("10.1.1.1", ["", ","], "10.1.1.1"),
        ("10.1.1.1", ["\xff, 1.2.3.4.5"], "10.1.1.1"),
        ("10.1.1.1", ["10.2.2.2, 10.3.3.3"], "10.2.2.2"),
        ("10.1.1.1", ["," * 5000 + ONE], ONE),
        ("10.1.1.1", ["fe80::1%" + "a" * 5000], "10.1.1.1"),
        (None, [ONE], ""),
    ],
)
def test_the_client_is_the_last_hop_that_is_no_trusted_proxy(peer: str | None, lines: Sequence[str], client: str):
    headers = [(b"x-forwarded-for", line.encode("latin-1")) for line in lines]
    assert PROXIES.client({"type": "http", "client": peer and (peer, 1), "headers": headers}) == client


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", ONE),
        ("testclient", "testclient"),
    ],
)
def test_addresses_of_one_ipv6_network_are_one_client(host: str, client: str):
    assert network_of(host) == client


def test_a_place_is_given_back_however_its_request_ends():
    places = Places(1, TooManyWaits)
    for _ in range(3):
        with contextlib.suppress(ZeroDivisionError), places.hold([ONE]):
            with pytest.raises(TooManyWaits), places.hold([OTHER, ONE]):
                pass
            with places.hold([OTHER]):
                raise ZeroDivisionError
    assert places._held == {}
