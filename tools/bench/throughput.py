"""Submits a second at 32 connections to the real gateway on a real broker, compared with a no-op FastAPI."""

import asyncio
import time

import aiohttp

from adapters.kafka_log import KafkaLog
from infra.local.stack import Stack
from tools.bench.stage import percentile, row, stack, title
from tools.bench.stub_runner import MODEL, SERVED_MODEL

CONNECTIONS = 32
SECONDS = 8.0
BODY = {"model_name": MODEL, "prompt": "a red circle on a blue background"}


def measure() -> None:
    """Print the table."""
    with stack() as built:
        asyncio.run(publish_model(built))
        gateway = built.gateway().wait_until_ready()
        noop = built.python("noop", "-m", "tools.bench.noop").wait_until_ready()
        rounds = [(asyncio.run(_load(gateway.url)), asyncio.run(_load(noop.url))) for _ in range(2)]
        title(f"submits at {CONNECTIONS} connections, {SECONDS:g} s each, twice in turns")
        row("", "a second", "p50", "p99")
        for through_gateway, through_noop in rounds:
            for what, seconds in (
                ("the gateway, on real Kafka", through_gateway),
                ("a no-op FastAPI under uvicorn", through_noop),
            ):
                p50, p99 = (f"{percentile(seconds, share) * 1e3:.1f} ms" for share in (0.5, 0.99))
                row(what, f"{len(seconds) / SECONDS:.0f}", p50, p99)
            row("ratio of throughputs", f"{len(through_gateway) / len(through_noop):.2f}")


async def publish_model(stack: Stack) -> None:
    """Publish the stub's model without a runner, so that its tasks stay queued."""
    task_log = KafkaLog(stack.read_settings())
    await task_log.append_card(SERVED_MODEL.model_copy(update={"runners": 0}))
    await task_log.close()


async def _load(url: str) -> list[float]:
    """The seconds of each submit, with CONNECTIONS connections for SECONDS seconds."""
    seconds: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:
        end = time.monotonic() + SECONDS

        async def submit() -> None:
            while time.monotonic() < end:
                began = time.monotonic()
                async with session.post(f"{url}/generate_image", json=BODY) as answer:
                    assert answer.status == 202, await answer.text()
                    await answer.read()
                seconds.append(time.monotonic() - began)

        await asyncio.gather(*(submit() for _ in range(CONNECTIONS)))
    return seconds
