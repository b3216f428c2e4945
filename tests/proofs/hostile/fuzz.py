"""`python -m tests.proofs.hostile.fuzz KIND --examples 10000 --seed 7`: hostile input by the thousand.

Kinds: records (raw bytes on a lane), news (raw bytes as events and cards), requests (bodies and headers to POST
/generate_image), routes (any method, path, header and body), openapi (requests that schemathesis makes from the document,
over a socket). Each run prints a count of the answers. It fails at the first broken promise and prints the shortest input
that breaks it.
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
"""The longest time for an answer, in real seconds; generous for a busy machine."""
_GOOD = {"model_name": "sd-mini", "prompt": "a red circle"}


class Service:
    """A whole service on twins, and a count of its answers."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self.world = World()
        self.world.runner.step_seconds = 0.001
        self.counts: Counter[str] = Counter()
        self._stack = contextlib.AsyncExitStack()
        self._ids = itertools.count(1)
        self.consumer: Running
        self.gateway: GatewayApp
        self.client: httpx.AsyncClient

    async def open(self) -> None:
        """Start one consumer and one gateway."""
        self.consumer = await self.world.start()
        settings = SETTINGS.model_copy(update={"wait_limit": 0.01})
        log = MemoryLog(self.world.broker)
        self.gateway = build_gateway(settings, task_log=log, store=self.world.store, clock=self.world.clock)
        await self._stack.enter_async_context(self.gateway.app.router.lifespan_context(self.gateway.app))
        transport = httpx.ASGITransport(self.gateway.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")
        await self._stack.enter_async_context(self.client)
        await settle()

    async def close(self) -> None:
        """Stop both."""
        await self._stack.aclose()
        await self.consumer.kill()

    def fresh_id(self) -> str:
        """A task id that no task has."""
        return f"{next(self._ids):032x}"

    async def drained(self) -> None:
        """Advance the clock until every record has its outcome or is a dead letter."""
        for _ in range(200):
            assert not self.consumer.work.done(), f"the consumer ended: {self.consumer.work}"
            if self.world.watermark_at_end():
                return
            await self.world.clock.advance(0.05)
        raise AssertionError("a record has no outcome and is not a dead letter")

    async def send(self, method: str, path: str, body: bytes, headers: list[tuple[str, str]]) -> httpx.Response:
        """Send one request. Its answer must be below 500, and every refusal must be a problem document."""
        lines = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        request = self.client.request(method, path, content=body, headers=lines)
        answer = await asyncio.wait_for(request, _SECONDS)
        assert answer.status_code < 500, (answer.status_code, answer.text)
        self.counts[f"{answer.status_code}"] += 1
        if answer.status_code >= 400 and method != "HEAD":
            assert answer.headers["content-type"] == "application/problem+json", answer.text
            code = answer.json()["code"]
            assert code in ERRORS
            self.counts[code] += 1
        return answer

    async def works(self) -> None:
        """A valid task is accepted and completes after everything that was sent before."""
        answer = await self.client.post("/generate_image", json=_GOOD)
        assert answer.status_code == 202, answer.text
        await self.drained()
        status = (await self.client.get(answer.headers["location"])).json()
        assert status["status"] == "completed", status
        assert (await self.client.get(status["image_url"])).status_code == 200


async def put_record(
    service: Service, value: bytes, key: str, headers: dict[str, bytes], lane: str, again: bool
) -> None:
    """Write one record to a lane and wait until it is done."""
    task_id = hostile.GOOD_ID if again else service.fresh_id()
    value = value.replace(hostile.GOOD_ID.encode(), task_id.encode())
    broker = service.world.broker
    letters_before = len(broker.topics[DEAD_LETTERS][0])
    place = broker.append(lane, broker.partition_of(key), key, value, headers)
    await settle()
    await service.drained()
    letters = broker.topics[DEAD_LETTERS][0][letters_before:]
    if letters:
        assert [letter.value for letter in letters] == [value]
        service.counts["dead letter"] += 1
    answer = await service.client.get(f"/check_status/{task_id}")
    assert answer.status_code < 500, answer.text
    if answer.status_code == 200:
        assert not letters or again
        status = answer.json()
        assert status["status"] in ("completed", "failed", "expired"), (status, place)
        service.counts[status["error"]["code"] if status["error"] else status["status"]] += 1
    elif not letters:
        service.counts["a record with another id"] += 1


async def put_event_and_card(service: Service, event: bytes, card: bytes) -> None:
    """Write an event of an unknown task and a card of a model without runners; then submit a task for that model."""
    event = event.replace(hostile.GOOD_ID.encode(), service.fresh_id().encode())
    broker = service.world.broker
    broker.append(EVENTS, broker.partition_of("sd-mini"), "x", event, {})
    broker.append(MODELS, 0, "other", card, {})
    await settle()
    await service.drained()
    assert (await service.client.get("/models")).status_code == 200
    answer = await service.client.post("/generate_image", json={**_GOOD, "model_name": "other", "start_within": 0.01})
    assert answer.status_code < 500, answer.text
    service.counts[f"{answer.status_code}"] += 1
    await service.drained()


async def post_request(service: Service, body: bytes, headers: list[tuple[str, str]]) -> None:
    """Post one body to the submit route."""
    json_type = [("Content-Type", "application/json")]
    lines = json_type + [line for line in headers if line[0] not in ("Content-Type", "Content-Length")]
    before = _tasks(service)
    answer = await service.send("POST", "/generate_image", body, lines)
    assert _tasks(service) - before in ((0, 1) if answer.status_code in (200, 202) else (0,))
    await service.drained()


async def call_route(service: Service, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> None:
    """Send any request."""
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
    "news": (put_event_and_card, {"event": hostile.event_bodies, "card": hostile.card_bodies}),
    "requests": (post_request, {"body": hostile.request_bodies, "headers": hostile.headers}),
    "routes": (
        call_route,
        {"method": hostile.methods, "path": hostile.paths, "headers": hostile.headers, "body": hostile.request_bodies},
    ),
}


def run(kind: str, examples: int, seed: int = SEED) -> Counter[str]:
    """Send `examples` inputs of this kind, then one valid task. Returns the count of answers. Raises at a broken promise."""
    act, strategies = KINDS[kind]
    with asyncio.Runner() as runner:
        services: list[Service] = []

        def current_service() -> Service:
            if not services:
                services.append(Service())
                runner.run(services[0].open())
            return services[0]

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(**strategies)
        def example(**drawn: Any) -> None:
            service = current_service()
            try:
                runner.run(act(service, **drawn))
            except BaseException:
                # A broken service must not fail the next example, or hypothesis could not shorten the input.
                services.clear()
                raise

        example()
        service = current_service()
        runner.run(service.works())
        runner.run(service.close())
        return service.counts


def main() -> None:
    """Run one kind and print the count of answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=(*KINDS, "openapi"))
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # otherwise one line for each record
    began = time.monotonic()
    if arguments.kind == "openapi":
        counts = fuzz_openapi.run(arguments.examples, arguments.seed)
    else:
        counts = run(arguments.kind, arguments.examples, arguments.seed)
    print(f"{arguments.kind}: {arguments.examples} examples, seed {arguments.seed}, {time.monotonic() - began:.0f} s")
    for what, count in counts.most_common():
        print(f"  {count:6} {what}")


if __name__ == "__main__":
    main()
