"""`python -m tests.proofs.hostile.fuzz KIND --examples 10000 --seed 7`: hostile input by the thousand.

Kinds: records (raw bytes on a lane), news (raw bytes among the events and the cards), requests (bodies and headers to POST /generate_image), routes (any method, path,
header and body), openapi (what schemathesis makes of the document, over a socket). Each run says what the answers were, and fails at the first that breaks a promise, with the shortest
input that does.
"""

import argparse
import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import hypothesis
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from adapters.clock import settle
from adapters.memory_log import DEAD_LETTERS, EVENTS, MODELS, MemoryLog
from functions.api.app import GatewayApp, build_gateway
from tasks.errors import ERRORS
from tests.proofs.hostile import fuzz_openapi, hostile
from tests.support.world import LANES, SETTINGS, Running, World

SEED = 7
_SECONDS = 30.0
"""An answer that takes longer counts as none; real seconds, generous for a busy machine."""
_GOOD = {"model_name": "sd-mini", "prompt": "a red circle"}


class Service:
    """A whole service on twins, and what it answered so far."""

    def __init__(self) -> None:
        """Nothing asked yet."""
        self.world = World()
        self.world.runner.step_seconds = 0.001
        self.seen: Counter[str] = Counter()
        self._stack = contextlib.AsyncExitStack()
        self._ids = itertools.count(1)
        self.consumer: Running
        self.gateway: GatewayApp
        self.client: httpx.AsyncClient

    async def open(self) -> None:
        """One consumer and one gateway, running."""
        self.consumer = await self.world.start()
        settings = SETTINGS.model_copy(update={"wait_limit": 0.01})
        log = MemoryLog(self.world.broker)
        self.gateway = build_gateway(settings, task_log=log, store=self.world.store, clock=self.world.clock)
        await self._stack.enter_async_context(self.gateway.app.router.lifespan_context(self.gateway.app))
        transport = httpx.ASGITransport(self.gateway.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://gateway")
        await self._stack.enter_async_context(self.client)
        await settle()

    async def close(self) -> None:
        """End both."""
        await self._stack.aclose()
        await self.consumer.kill()

    def fresh_id(self) -> str:
        """A task id nobody had."""
        return f"{next(self._ids):032x}"

    async def drained(self) -> None:
        """Turn the clock until every record has its outcome or lies with the dead letters."""
        for _ in range(200):
            assert not self.consumer.work.done(), f"the consumer ended: {self.consumer.work}"
            if self.world.watermark_at_end():
                return
            await self.world.clock.advance(0.05)
        raise AssertionError("a record has neither an outcome nor a place with the dead letters")

    async def send(self, method: str, path: str, body: bytes, headers: list[tuple[str, str]]) -> httpx.Response:
        """One request, whose answer must be one of ours."""
        lines = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        asked = self.client.request(method, path, content=body, headers=lines)
        answer = await asyncio.wait_for(asked, _SECONDS)
        assert answer.status_code < 500, (answer.status_code, answer.text)
        self.seen[f"{answer.status_code}"] += 1
        if answer.status_code >= 400 and method != "HEAD":
            assert answer.headers["content-type"] == "application/problem+json", answer.text
            code = answer.json()["code"]
            assert code in ERRORS
            self.seen[code] += 1
        return answer

    async def works(self) -> None:
        """A good task is taken and ends, whatever was sent before."""
        answer = await self.client.post("/generate_image", json=_GOOD)
        assert answer.status_code == 202, answer.text
        await self.drained()
        status = (await self.client.get(answer.headers["location"])).json()
        assert status["status"] == "completed", status
        assert (await self.client.get(status["image_url"])).status_code == 200


async def put_record(
    service: Service, value: bytes, key: str, headers: dict[str, bytes], lane: str, again: bool
) -> None:
    """One record on a lane, until it is done with."""
    task_id = hostile.GOOD_ID if again else service.fresh_id()
    value = value.replace(hostile.GOOD_ID.encode(), task_id.encode())
    broker = service.world.broker
    buried = len(broker.topics[DEAD_LETTERS][0])
    place = broker.append(lane, broker.partition_of(key), key, value, headers)
    await settle()
    await service.drained()
    letters = broker.topics[DEAD_LETTERS][0][buried:]
    if letters:
        assert [letter.value for letter in letters] == [value]
        service.seen["dead letter"] += 1
    answer = await service.client.get(f"/check_status/{task_id}")
    assert answer.status_code < 500, answer.text
    if answer.status_code == 200:
        assert not letters or again
        status = answer.json()
        assert status["status"] in ("completed", "failed", "expired"), (status, place)
        service.seen[status["error"]["code"] if status["error"] else status["status"]] += 1
    elif not letters:
        service.seen["another id's"] += 1


async def put_news(service: Service, event: bytes, card: bytes) -> None:
    """An event about a task nobody asked for, and a card of a model that is not there, which somebody then asks for."""
    event = event.replace(hostile.GOOD_ID.encode(), service.fresh_id().encode())
    broker = service.world.broker
    broker.append(EVENTS, broker.partition_of("sd-mini"), "x", event, {})
    broker.append(MODELS, 0, "other", card, {})
    await settle()
    await service.drained()
    assert (await service.client.get("/models")).status_code == 200
    answer = await service.client.post("/generate_image", json={**_GOOD, "model_name": "other", "start_within": 0.01})
    assert answer.status_code < 500, answer.text
    service.seen[f"{answer.status_code}"] += 1
    await service.drained()


async def post_request(service: Service, body: bytes, headers: list[tuple[str, str]]) -> None:
    """One body to the submit route."""
    json_type = [("Content-Type", "application/json")]
    lines = json_type + [line for line in headers if line[0] not in ("Content-Type", "Content-Length")]
    before = _tasks(service)
    answer = await service.send("POST", "/generate_image", body, lines)
    assert _tasks(service) - before in ((0, 1) if answer.status_code in (200, 202) else (0,))
    await service.drained()


async def call_route(service: Service, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> None:
    """Any request."""
    await service.send(method, path, body, headers)


def _tasks(service: Service) -> int:
    return sum(len(records) for lane in LANES for records in service.world.broker.topics[lane].values())


KINDS: dict[str, tuple[Callable[..., Awaitable[None]], dict[str, st.SearchStrategy[Any]]]] = {
    "records": (
        put_record,
        {
            "value": hostile.record_bodies,
            "key": hostile.record_keys,
            "headers": hostile.record_headers,
            "lane": st.sampled_from(LANES),
            "again": st.sampled_from((False, False, False, False, True)),
        },
    ),
    "news": (put_news, {"event": hostile.event_bodies, "card": hostile.card_bodies}),
    "requests": (post_request, {"body": hostile.request_bodies, "headers": hostile.headers}),
    "routes": (
        call_route,
        {"method": hostile.methods, "path": hostile.paths, "headers": hostile.headers, "body": hostile.request_bodies},
    ),
}


def run(kind: str, examples: int, seed: int = SEED) -> Counter[str]:
    """So many examples of this kind, then one good task; what was seen. Raises at the first broken promise."""
    act, strategies = KINDS[kind]
    with asyncio.Runner() as runner:
        houses: list[Service] = []

        def house() -> Service:
            if not houses:
                houses.append(Service())
                runner.run(houses[0].open())
            return houses[0]

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(**strategies)
        def example(**drawn: Any) -> None:
            service = house()
            try:
                runner.run(act(service, **drawn))
            except BaseException:
                # What it broke must not fail the next example too, or nothing could be made shorter.
                houses.clear()
                raise

        example()
        service = house()
        runner.run(service.works())
        runner.run(service.close())
        return service.seen


def main() -> None:
    """Run one kind and say what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=(*KINDS, "openapi"))
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)  # one line a record, as it should be
    began = time.monotonic()
    if asked.kind == "openapi":
        seen = fuzz_openapi.run(asked.examples, asked.seed)
    else:
        seen = run(asked.kind, asked.examples, asked.seed)
    print(f"{asked.kind}: {asked.examples} examples, seed {asked.seed}, {time.monotonic() - began:.0f} s")
    for what, count in seen.most_common():
        print(f"  {count:6} {what}")


if __name__ == "__main__":
    main()
