"""The consumer process: how it is built, how it runs, how it shuts down. Worker, triggers and tests use it.

A delivery takes these steps:

1. receive        `Dispatcher.receive`: records, or partitions that were assigned or revoked
2. read           `View.apply`: what each record means, and the task's state after it
3. decide         `tasks.ownership.next_action`, acted on by `Dispatcher._decide`
4. start attempt  `Dispatcher.dispatch`, `Attempts.start`: the next task of the fair queue that a runner has room for
5. generate       `Handler._generate`: the runner's frames; the handler emits Started at the first one
6. store          `Handler._store_images`
7. commit outcome `Handler.finish`: outcome.json, the commit point of the task
8. announce       `Handler.announce`: the Outcome event
9. commit offset  `OwnedPartitions.end`, when the dispatcher reads that Outcome event back from the log
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from adapters.view import View
from config.settings import Settings
from functions.consume.background import Background
from functions.consume.dispatcher import Dispatcher
from functions.consume.handler import Handler
from functions.consume.metrics import Metrics
from functions.consume.runner_pool import RunnerPool
from tasks.ports import Clock, ImageStore, RunnerClient, TaskLog
from tasks.queues import Queues

logger = logging.getLogger(__name__)

PRUNE_SECONDS = 600.0
KEEP_SECONDS = 3600.0
"""How long the view keeps an ended task, in case its record is read again."""


class Consumer:
    """One consumer process. `run` works until `stop` is called, then shuts down in order."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        handler: Handler,
        pool: RunnerPool,
        view: View,
        metrics: Metrics,
        background: Background,
        task_log: TaskLog,
        clock: Clock,
        grace: float,
    ) -> None:
        """Use `build_consumer`. `grace`: seconds that running attempts get to end when the consumer shuts down."""
        self.dispatcher = dispatcher
        self.attempts = dispatcher.attempts
        self.handler = handler
        self.pool = pool
        self.view = view
        self.metrics = metrics
        self.background = background
        self.stop_requested = asyncio.Event()
        self._grace = grace
        self._hurried = asyncio.Event()
        self._task_log = task_log
        self._clock = clock

    async def run(self) -> None:
        """Work until `stop` is called or a part fails, then shut down. Raises the error of the part that failed.

        Cancelling it ends everything at once, as a crash would: no attempt is released and the log is not closed.
        """
        parts: list[asyncio.Future[Any]] = []
        try:
            if not self.stop_requested.is_set():
                lasting = (
                    self.stop_requested.wait(),
                    self.dispatcher.read_log(),
                    self.dispatcher.watch_timers(),
                    self.pool.watch(),
                    self._prune(),
                    self.background.failure(),
                )
                parts += [asyncio.ensure_future(part) for part in lasting]
                await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            ended = [part for part in parts if part.done()]
            await self._shut_down(parts)
            for part in ended:
                part.result()
        finally:
            self.dispatcher.start_no_more()
            try:
                await _cancel(parts)
            finally:
                await self.background.cancel()
                self.view.close()

    def stop(self, grace: float | None = None) -> None:
        """Make `run` shut down; `grace` (seconds) replaces the consumer's grace. A second call cuts the grace short."""
        if self.stop_requested.is_set():
            self._hurried.set()
        if grace is not None:
            self._grace = grace
        self.stop_requested.set()

    def missing(self) -> list[str]:
        """What this consumer still waits for before it is ready, in words. A model without runners is enough: an
        autoscaler starts the first runner when a task is queued."""
        if self.stop_requested.is_set():
            return ["this consumer, which is about to end"]
        missing = [] if self.dispatcher.partitions.ready else ["partitions of the queue"]
        if not self.pool.looked or not self.pool.models():
            missing.append("a model: no runner has reported one, and none was published")
        return missing

    def measure(self) -> None:
        """Set the gauges to the present values."""
        self.metrics.measure(self.dispatcher.queues, self.pool, self.attempts.storing, self._clock.now)

    async def _shut_down(self, parts: Sequence["asyncio.Future[Any]"]) -> None:
        """The one order in which a consumer ends.

        Attempts that no runner has accepted stop before this process leaves the group: the next owner reads the log up
        to its present end, so it would miss a later Started event and could start the task as well.
        """
        logger.info("stopping")
        self.dispatcher.start_no_more()
        await _cancel(parts)  # Ends the reading of the log, and with it the membership in the group.
        self.attempts.orphan(self.dispatcher.partitions.owned)
        limits = (self._clock.sleep(self._grace), self._hurried.wait(), self.background.idle())
        waits = [asyncio.ensure_future(limit) for limit in limits]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel(waits)
        left = tuple(self.attempts.under_way.values())
        await self.background.cancel()
        for attempt in left:
            self.handler.release_on_exit(attempt)
        await self._task_log.close()

    async def _prune(self) -> None:
        while True:
            await self._clock.sleep(PRUNE_SECONDS)
            self.view.prune(self._clock.now() - KEEP_SECONDS)


async def _cancel(futures: Iterable["asyncio.Future[Any]"]) -> None:
    futures = tuple(futures)
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)


def build_consumer(
    settings: Settings,
    *,
    task_log: TaskLog,
    store: ImageStore,
    clock: Clock,
    addresses: Callable[[], Awaitable[Sequence[str]]],
    connect: Callable[[str], RunnerClient],
) -> Consumer:
    """A consumer on these adapters; nothing is started. `addresses` returns the URLs of the runners, `connect`
    makes the client of one."""
    metrics = Metrics()
    topics = (*settings.lane_names, task_log.events_topic)
    owner = secrets.token_hex(8)
    view = View(settings.view_path, settings.lane_names)
    handler = Handler(task_log, store, clock, owner, metrics, settings.max_runtime)
    pool = RunnerPool(addresses, connect, task_log, clock)
    background = Background()
    dispatcher = Dispatcher(
        task_log=task_log,
        member=task_log.join(settings.kafka_group, topics, replayed=task_log.events_topic),
        view=view,
        queues=Queues(settings.lane_weights),
        pool=pool,
        handler=handler,
        background=background,
        clock=clock,
        owner=owner,
        metrics=metrics,
        max_unstored=settings.max_unstored,
        not_understood_wait=settings.not_understood_wait,
    )
    # When a runner answers again or a slot is released, the next task is started in the same call.
    pool.changed = dispatcher.dispatch
    return Consumer(
        dispatcher=dispatcher,
        handler=handler,
        pool=pool,
        view=view,
        metrics=metrics,
        background=background,
        task_log=task_log,
        clock=clock,
        grace=settings.consumer_grace,
    )
