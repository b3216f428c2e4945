"""Submits a second at 32 connections through the real gateway and a real broker, beside a FastAPI that does nothing."""

import asyncio
import time

import aiohttp

from adapters.kafka_log import KafkaLog
from infra.local.stack import Stack
from tools.bench.stage import percentile, row, stack, title
from tools.bench.stub_runner import CARD, MODEL

CONNECTIONS = 32
SECONDS = 8.0
BODY = {"model_name": MODEL, "prompt": "a red circle on a blue background"}


def measure() -> None:
    """Print the table."""
    with stack() as built:
        asyncio.run(publish_card(built))
        gateway = built.gateway().wait_until_ready()
        noop = built.python("noop", "-m", "tools.bench.noop").wait_until_ready()
        rounds = [(asyncio.run(_load(gateway.url)), asyncio.run(_load(noop.url))) for _ in range(2)]
        title(f"submits at {CONNECTIONS} connections, {SECONDS:g} s each, twice in turns")
        row("", "a second", "p50", "p99")
        for ours, theirs in rounds:
            for what, seconds in (("the gateway, on real Kafka", ours), ("a no-op FastAPI under uvicorn", theirs)):
                p50, p99 = (f"{percentile(seconds, share) * 1e3:.1f} ms" for share in (0.5, 0.99))
                row(what, f"{len(seconds) / SECONDS:.0f}", p50, p99)
            row("ratio of throughputs", f"{len(ours) / len(theirs):.2f}")


async def publish_card(stack: Stack) -> None:
    """Publish the stub's model without a runner, so that its tasks stay queued."""
    log = KafkaLog(stack.read_settings())
    await log.append_card(CARD.model_copy(update={"runners": 0}))
    await log.close()


async def _load(url: str) -> list[float]:
    seconds: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:
        end = time.monotonic() + SECONDS

        async def one() -> None:
            while time.monotonic() < end:
                began = time.monotonic()
                async with session.post(f"{url}/generate_image", json=BODY) as answer:
                    assert answer.status == 202, await answer.text()
                    await answer.read()
                seconds.append(time.monotonic() - began)

        await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return seconds
