"""One consumer in a process of its own, on a real log and store, that ends at its point as kill -9 ends it."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence

from adapters.clock import SystemClock
from adapters.kafka_log import KafkaLog
from adapters.s3_store import S3Store
from config.settings import Settings
from functions.consume.consumer import build_consumer
from tests.proofs.crash.ports import Fate, FatedClock, FatedLog, FatedRunner, FatedStore, Point
from tests.proofs.crash.story import CARDS, MoodyRunner

GRACE_SECONDS = 1.0


def consume(settings: Settings, environment: Mapping[str, str], point: Point | None) -> None:
    """Work until SIGTERM, or to the point."""
    os.environ.update(environment)
    asyncio.run(_consume(settings, point))


async def _consume(settings: Settings, point: Point | None) -> None:
    clock, log, store = SystemClock(), KafkaLog(settings), S3Store(settings)
    fate = Fate(point, "killed", lambda: os.kill(os.getpid(), signal.SIGKILL))
    runners = {runner.url: runner for runner in (MoodyRunner(card, clock) for card in CARDS)}

    async def addresses() -> Sequence[str]:
        return list(runners)

    consumer = build_consumer(
        settings,
        task_log=FatedLog(log, fate),
        store=FatedStore(store, fate),
        clock=FatedClock(clock, fate),
        addresses=addresses,
        connect=lambda url: FatedRunner(runners[url], fate),
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consumer.stop, GRACE_SECONDS)
    await consumer.run()
    store.close()
