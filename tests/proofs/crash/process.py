"""One consumer in a process of its own, on a real log and store, that kills itself with SIGKILL at its point."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence

from adapters.clock import SystemClock
from adapters.kafka_log import KafkaLog
from adapters.s3_store import S3Store
from config.settings import Settings
from functions.consume.consumer import build_consumer
from tests.proofs.crash.ports import FaultyClock, FaultyLog, FaultyRunner, FaultyStore, Point, ProcessFault
from tests.proofs.crash.story import CARDS, FailingRunner

GRACE_SECONDS = 1.0


def consume(settings: Settings, environment: Mapping[str, str], point: Point | None) -> None:
    """Run until SIGTERM or until the point is reached."""
    os.environ.update(environment)
    asyncio.run(_consume(settings, point))


async def _consume(settings: Settings, point: Point | None) -> None:
    clock, log, store = SystemClock(), KafkaLog(settings), S3Store(settings)
    fault = ProcessFault(point, "killed", lambda: os.kill(os.getpid(), signal.SIGKILL))
    runners = {runner.url: runner for runner in (FailingRunner(card, clock) for card in CARDS)}

    async def addresses() -> Sequence[str]:
        return list(runners)

    consumer = build_consumer(
        settings,
        task_log=FaultyLog(log, fault),
        store=FaultyStore(store, fault),
        clock=FaultyClock(clock, fault),
        addresses=addresses,
        connect=lambda url: FaultyRunner(runners[url], fault),
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consumer.stop, GRACE_SECONDS)
    await consumer.run()
    store.close()
