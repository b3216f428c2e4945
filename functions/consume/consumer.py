"""How a consumer is put together: one function, used by the worker and by the tests."""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from adapters.view import View
from config.settings import Settings
from functions.consume.dispatcher import Dispatcher
from functions.consume.handler import Handler
from functions.consume.metrics import Metrics
from functions.consume.runner_pool import RunnerPool
from tasks.ports import Clock, ImageStore, RunnerClient, TaskLog
from tasks.queues import Queues


@dataclass(frozen=True)
class Consumer:
    """The parts of a consumer that somebody outside must start, stop or look at."""

    dispatcher: Dispatcher
    pool: RunnerPool
    handler: Handler
    view: View
    metrics: Metrics


def build_consumer(
    settings: Settings,
    *,
    log: TaskLog,
    store: ImageStore,
    clock: Clock,
    addresses: Callable[[], Awaitable[Sequence[str]]],
    connect: Callable[[str], RunnerClient],
) -> Consumer:
    """A consumer on these adapters; nothing is started."""
    metrics = Metrics()
    topics = (*settings.lane_names, log.events_topic)
    owner = secrets.token_hex(8)
    view = View(settings.view_path, settings.lane_names)
    handler = Handler(log, store, clock, owner, metrics, settings.max_runtime)
    pool = RunnerPool(addresses, connect, log, clock)
    dispatcher = Dispatcher(
        log=log,
        member=log.join(settings.kafka_group, topics, replayed=log.events_topic),
        view=view,
        queues=Queues(settings.lane_weights),
        pool=pool,
        handler=handler,
        clock=clock,
        owner=owner,
        metrics=metrics,
        max_unstored=settings.max_unstored,
    )
    return Consumer(dispatcher, pool, handler, view, metrics)
