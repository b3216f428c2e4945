"""One task from start to outcome. The order of effects is the order of the lines: started, frames, pictures,
outcome.json (the commit point), outcome event."""

import asyncio
import hashlib
import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from functions.consume.attempt import Attempt
from functions.consume.metrics import Metrics
from functions.consume.runner_pool import Slot
from tasks.errors import (
    Canceled,
    GenerationFailed,
    QueueUnavailable,
    RanTooLong,
    RunnerLoading,
    RunnerLost,
    StartedTooLate,
    StoreUnavailable,
    TaskError,
    WorkerFailed,
)
from tasks.events import EndStatus, Outcome, Released, StoredImage, TaskFailure, Timings
from tasks.lease import HEARTBEAT_SECONDS, PROGRESS_SECONDS
from tasks.log import Partition, Record
from tasks.ports import Clock, ImageStore, TaskLog
from tasks.retry import Fail, decide
from tasks.runner_api import End, Image, Started, Step
from tasks.task import Task

log = logging.getLogger(__name__)

T = TypeVar("T")

BACKOFF_SECONDS = (0.25, 0.5, 1.0, 2.0)
"""Waits before asking an absent store or queue again; the last one repeats."""
HAND_OVER_STEPS, HAND_OVER_SECONDS = 2, 0.05
"""The next task is sent when so little is left of the one before: it reaches the runner during the last step but one,
and its prompt is encoded before the last."""
_ENDINGS: dict[type[TaskError], EndStatus] = {Canceled: "canceled", StartedTooLate: "expired"}


class Handler:
    """Does attempts, for one owner."""

    def __init__(
        self, log: TaskLog, store: ImageStore, clock: Clock, owner: str, metrics: Metrics, max_runtime: float
    ) -> None:
        """`owner` names this process in the events; `max_runtime` (seconds) is for tasks that name none."""
        self._log = log
        self._store = store
        self._clock = clock
        self._owner = owner
        self._metrics = metrics
        self._max_runtime = max_runtime

    async def run(self, attempt: Attempt, slot: Slot) -> Outcome | Released:
        """Do the attempt at the slot's runner and say how it went: the outcome that stands, or that it is queued again.

        The slot is released when the runner will have room for the next task in a moment.
        """
        task = attempt.task
        heartbeat = asyncio.ensure_future(self._heartbeat(attempt))
        try:
            try:
                await self._generate(attempt, slot)
            except TaskError as error:
                if isinstance(error, RunnerLost | RunnerLoading):
                    slot.lost()
                if isinstance(error, RunnerLost) and not attempt.accepted:
                    error = RunnerLoading(error.detail)
                return await self._failed(attempt, error)
            finally:
                attempt.storing = bool(attempt.pictures)
                slot.release()
            log.info("generated", extra={"task_id": task.task_id, "attempt": attempt.number})
            began = self._clock.monotonic()
            images = await self._store_pictures(attempt)
            attempt.timings = attempt.timings.model_copy(update={"storing": self._clock.monotonic() - began})
            return await self.finish(task, attempt.partition, attempt=attempt, images=images)
        except Exception as error:
            log.exception("a mistake of ours", extra={"task_id": task.task_id, "attempt": attempt.number})
            return await self._failed(attempt, WorkerFailed(f"{type(error).__name__}: {error}"))
        finally:
            heartbeat.cancel()

    async def finish(
        self,
        task: Task,
        partition: Partition,
        *,
        attempt: Attempt | None = None,
        images: tuple[StoredImage, ...] = (),
        error: TaskError | None = None,
    ) -> Outcome:
        """Write how the task ended, once, and announce what stands: this, or what another owner wrote before."""
        outcome = Outcome(
            task_id=task.task_id,
            at=self._clock.now(),
            status=_ENDINGS.get(type(error), "failed") if error else "completed",
            attempt=attempt.tries if attempt else 0,
            task=task,
            images=images,
            error=TaskFailure(code=error.code(), message=error.detail) if error else None,
            timings=attempt.timings if attempt else Timings(),
            acceleration=attempt.acceleration if attempt else {},
        )
        stands: Outcome = await self._retry_until_available(lambda: self._store.put_outcome(outcome))
        if images and stands.images != images:
            await self._retry_until_available(lambda: self._store.delete_images([image.key for image in images]))
        await self.announce(stands, partition)
        return stands

    async def announce(self, outcome: Outcome, partition: Partition) -> None:
        """Append the outcome that stands to the events."""
        await self._retry_until_available(lambda: self._log.append_event(outcome, partition))
        self._metrics.ended(outcome)
        fields = {"task_id": outcome.task_id, "status": outcome.status, "attempt": outcome.attempt}
        if outcome.error is not None:
            fields |= {"code": outcome.error.code, "error": outcome.error.message}
        log.info("ended", extra=fields)

    async def stored_outcome(self, task_id: str) -> Outcome | None:
        """The outcome an earlier owner may have written without announcing it."""
        return await self._retry_until_available(lambda: self._store.get_outcome(task_id))

    async def dead_letter(self, record: Record, reason: str) -> None:
        """Put a record nobody can read with the dead letters."""
        await self._retry_until_available(lambda: self._log.dead_letter(record, reason))
        self._metrics.dead_letters.inc()
        log.warning("dead letter", extra={"place": str(record.place), "reason": reason})

    async def release(self, attempt: Attempt, code: str, delay: float, counts: bool) -> Released:
        """Say that the attempt is over and the task is queued again."""
        released = self._released(attempt, code, delay, counts)
        if attempt.accepted:
            await self._retry_until_available(lambda: self._log.append_event(released, attempt.partition))
        else:
            await self._clock.sleep(delay)
            attempt.heard = True
        return released

    def release_on_exit(self, attempt: Attempt) -> None:
        """Say, without waiting, that this process ends before the attempt: should nobody hear it, the lease lapses."""
        if attempt.accepted:
            self._log.emit(self._released(attempt, "shutting_down", 0.0, counts=False), attempt.partition)

    def _released(self, attempt: Attempt, code: str, delay: float, counts: bool) -> Released:
        self._metrics.retries.labels(attempt.task.model_name, code).inc()
        log.info("queued again", extra={"task_id": attempt.task.task_id, "attempt": attempt.number, "code": code})
        return attempt.released(self._owner, self._clock.now(), code, delay, counts)

    async def _generate(self, attempt: Attempt, slot: Slot) -> None:
        if attempt.stopped_by is not None:
            raise attempt.stopped_by
        limit = attempt.task.max_runtime or self._max_runtime
        attempt.generating = asyncio.ensure_future(self._read_frames(attempt, slot))
        deadline = asyncio.ensure_future(self._clock.sleep(limit))
        try:
            await asyncio.wait((attempt.generating, deadline), return_when=asyncio.FIRST_COMPLETED)
            if not attempt.generating.done():
                attempt.stop(RanTooLong(f"It was stopped after {limit:g} seconds."))
            await attempt.generating
        except asyncio.CancelledError:
            attempt.generating.cancel()
            if attempt.stopped_by is None:
                raise
            raise attempt.stopped_by from None
        finally:
            deadline.cancel()
            attempt.generating = None

    async def _read_frames(self, attempt: Attempt, slot: Slot) -> None:
        began = emitted = self._clock.monotonic()
        async with aclosing(slot.runner.run(attempt.request(self._max_runtime))) as frames:
            async for frame in frames:
                if not attempt.accepted:
                    self._begin(attempt, slot)
                match frame:
                    case Started():
                        began = self._clock.monotonic()
                    case Step(step=step, steps=steps):
                        attempt.step, attempt.steps = step, steps
                        left = steps - step
                        each = (self._clock.monotonic() - began) / step
                        if left <= HAND_OVER_STEPS or left * each <= HAND_OVER_SECONDS:
                            slot.release()
                        if self._clock.monotonic() - emitted >= PROGRESS_SECONDS or step == steps:
                            emitted = self._clock.monotonic()
                            self._log.emit(attempt.progress(self._owner, self._clock.now()), attempt.partition)
                    case Image():
                        attempt.pictures.append(frame)
                    case End():
                        attempt.timings = Timings(
                            queued=attempt.queued_seconds,
                            loading=frame.seconds_loading,
                            generating=frame.seconds_generating,
                        )
                        attempt.acceleration = frame.acceleration
                    case _:
                        continue
        if len(attempt.pictures) != attempt.task.image_params.num_images:
            raise GenerationFailed(
                f"The runner ended with {len(attempt.pictures)} of {attempt.task.image_params.num_images} pictures."
            )

    def _begin(self, attempt: Attempt, slot: Slot) -> None:
        attempt.accepted = True
        self._log.emit(attempt.started(self._owner, self._clock.now()), attempt.partition)
        about = {"task_id": attempt.task.task_id, "attempt": attempt.number, "runner": slot.runner.url}
        log.info("started", extra=about)

    async def _failed(self, attempt: Attempt, error: TaskError) -> Outcome | Released:
        attempt.pictures.clear()
        attempt.storing = False
        decision = decide(error, attempt.tries)
        if isinstance(decision, Fail):
            return await self.finish(attempt.task, attempt.partition, attempt=attempt, error=decision.error)
        return await self.release(attempt, error.code(), decision.delay, decision.counts)

    async def _store_pictures(self, attempt: Attempt) -> tuple[StoredImage, ...]:
        unique = f"{attempt.number}-{secrets.token_hex(4)}"
        folder = f"tasks/{attempt.task.task_id}"
        suffix = attempt.task.image_params.format

        async def put(image: Image) -> StoredImage:
            data = image.payload
            key = f"{folder}/{unique}-{image.index}.{suffix}"
            await self._retry_until_available(lambda: self._store.put_image(key, data, image.content_type))
            return StoredImage(
                key=key,
                content_type=image.content_type,
                size=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                width=image.width,
                height=image.height,
                seed=image.seed,
            )

        in_order = sorted(attempt.pictures, key=lambda image: image.index)
        puts = await asyncio.gather(*map(put, in_order), return_exceptions=True)
        stored = tuple(one for one in puts if isinstance(one, StoredImage))
        for error in puts:
            if isinstance(error, BaseException):
                # The next attempt's pictures have other names: nobody would ever ask for these.
                await self._retry_until_available(lambda: self._store.delete_images([image.key for image in stored]))
                raise error
        return stored

    async def _heartbeat(self, attempt: Attempt) -> None:
        while True:
            await self._clock.sleep(HEARTBEAT_SECONDS)
            if attempt.accepted:
                self._log.emit(attempt.progress(self._owner, self._clock.now()), attempt.partition)

    async def _retry_until_available(self, call: Callable[[], Awaitable[T]]) -> T:
        delays = itertools.chain(BACKOFF_SECONDS, itertools.repeat(BACKOFF_SECONDS[-1]))
        while True:
            try:
                return await call()
            except (StoreUnavailable, QueueUnavailable):
                await self._clock.sleep(next(delays))
