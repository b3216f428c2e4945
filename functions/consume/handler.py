"""One attempt at one task, from the runner to the announced outcome.

The order of effects is the order of the lines in `run` and `finish`: Started, frames, images, outcome.json (the
commit point), Outcome event. The Kafka offset is not committed here. It is committed when the dispatcher reads the
Outcome event back from the log (`OwnedPartitions.end`): only then is it certain that every later owner will read it
too, and an outcome that another owner announced is committed by the same line.
"""

import asyncio
import functools
import hashlib
import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import TypeVar

from functions.consume.attempt import Attempt
from functions.consume.metrics import Metrics
from functions.consume.runner_pool import Slot
from tasks.errors import (
    Canceled,
    GenerationFailed,
    InputMissing,
    QueueUnavailable,
    RanTooLong,
    RunnerLoading,
    RunnerLost,
    RunnerUnavailable,
    StartedTooLate,
    StoreUnavailable,
    TaskError,
    UnknownImage,
    UntrustedOutcome,
    WorkerFailed,
)
from tasks.events import EndStatus, Outcome, Released, StoredImage, TaskFailure, Timings
from tasks.lease import HEARTBEAT_SECONDS, PROGRESS_SECONDS
from tasks.log import Partition, Record
from tasks.object_keys import image_key
from tasks.ports import Clock, ImageStore, TaskLog
from tasks.preview import PREVIEW_BYTES, PREVIEW_SECONDS
from tasks.retry import Fail, decide
from tasks.runner_api import End, Image, Input, Preview, Started, Step
from tasks.task import Task

logger = logging.getLogger(__name__)

T = TypeVar("T")

BACKOFF_SECONDS = (0.25, 0.5, 1.0, 2.0)
"""Seconds before an unavailable store or queue is called again; the last one repeats."""
HAND_OVER_STEPS, HAND_OVER_SECONDS = 2, 0.05
"""The slot is released when this many steps or seconds are left. The next task then reaches the runner before the last
step begins, and its prompt is encoded before the last step ends."""
_END_STATUS: dict[type[TaskError], EndStatus] = {Canceled: "canceled", StartedTooLate: "expired"}


class Handler:
    """Runs attempts and writes outcomes, for one owner."""

    def __init__(
        self, task_log: TaskLog, store: ImageStore, clock: Clock, owner: str, metrics: Metrics, max_runtime: float
    ) -> None:
        """`owner` names this process in the events; `max_runtime` (seconds) applies to tasks that set none."""
        self._task_log = task_log
        self._store = store
        self._clock = clock
        self.owner = owner
        self._metrics = metrics
        self._max_runtime = max_runtime

    async def run(
        self, attempt: Attempt, slot: Slot, may_begin: Callable[[Attempt], bool] = lambda _: True
    ) -> Outcome | Released | None:
        """Run the attempt on the slot's runner. Returns the outcome that stands, or the Released event, or None if
        `may_begin`, which is called just before the runner, returns False.

        Only the handler releases the slot: while the last steps run, so that the next task reaches the runner in time,
        and at the latest when the runner is done with the task. The release starts the next task in the same call.
        """
        stored: Outcome | None = None
        heartbeat = asyncio.ensure_future(self._heartbeat(attempt))
        try:
            try:
                if attempt.check_store_first:
                    stored = await self.stored_outcome(attempt.task.task_id)
                if stored is None:
                    if not may_begin(attempt):
                        return None
                    await self._generate(attempt, slot)
            except TaskError as error:
                if isinstance(error, RunnerLost) and not attempt.accepted:
                    error = RunnerUnavailable(error.detail)
                if isinstance(error, RunnerLost | RunnerLoading | RunnerUnavailable):
                    slot.lost()
                return await self._failed(attempt, error)
            finally:
                slot.release()
            if stored is not None:
                await self.announce(stored, attempt.partition)
                return stored
            logger.info("generated", extra={"task_id": attempt.task.task_id, "attempt": attempt.number})
            began = self._clock.monotonic()
            images = await self._store_images(attempt)
            attempt.timings = attempt.timings.model_copy(update={"storing": self._clock.monotonic() - began})
            return await self.finish(attempt.task, attempt.partition, attempt=attempt, images=images)
        except Exception:
            logger.exception("internal error", extra={"task_id": attempt.task.task_id, "attempt": attempt.number})
            return await self._failed(attempt, WorkerFailed())
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
        """Write the task's outcome unless it already has one, and announce the one that is stored. Returns that one.

        If something else lies in its place, the task fails: an outcome is written once, so the real one cannot be.
        """
        outcome = Outcome(
            task_id=task.task_id,
            at=self._clock.now(),
            status=_END_STATUS.get(type(error), "failed") if error else "completed",
            tries=attempt.tries if attempt else 0,
            task=task,
            images=images,
            error=_failure(error) if error else None,
            timings=attempt.timings if attempt else Timings(),
            acceleration=attempt.acceleration if attempt else {},
        )
        try:
            stands: Outcome = await self._retry_until_available(lambda: self._store.put_outcome(outcome))
        except UntrustedOutcome as forged:
            logger.error("a forged outcome is in the store", extra={"task_id": task.task_id})
            stands = outcome.model_copy(update={"status": "failed", "images": (), "error": _failure(forged)})
        if images and stands.images != images:
            await self._retry_until_available(lambda: self._store.delete_images([image.key for image in images]))
        await self.announce(stands, partition)
        return stands

    async def announce(self, outcome: Outcome, partition: Partition) -> None:
        """Append the Outcome event. Reading it back closes the task's record (see the top of this file)."""
        await self._retry_until_available(lambda: self._task_log.append_event(outcome, partition))
        self._metrics.ended(outcome)
        fields = {"task_id": outcome.task_id, "status": outcome.status, "tries": outcome.tries}
        if outcome.error is not None:
            fields |= {"code": outcome.error.code, "error": outcome.error.message}
        logger.info("ended", extra=fields)

    async def stored_outcome(self, task_id: str) -> Outcome | None:
        """The outcome in the store, or None. An earlier attempt may have written it without announcing it. Raises
        UntrustedOutcome."""
        return await self._retry_until_available(lambda: self._store.get_outcome(task_id))

    async def dead_letter(self, record: Record, reason: str) -> None:
        """Append to the dead letters a record that cannot be read."""
        await self._retry_until_available(lambda: self._task_log.dead_letter(record, reason))
        self._metrics.dead_letters.inc()
        logger.warning("dead letter", extra={"place": str(record.place), "reason": reason})

    async def release(self, attempt: Attempt, code: str, delay: float, counts: bool) -> Released:
        """End the attempt without an outcome and queue its task again. If no runner accepted it, no event is written:
        no other process knows that it began."""
        released = self._released(attempt, code, delay, counts)
        if attempt.accepted:
            await self._retry_until_available(lambda: self._task_log.append_event(released, attempt.partition))
        else:
            await self._clock.sleep(delay)
        return released

    def release_on_exit(self, attempt: Attempt) -> None:
        """Emit, without waiting, that this process exits before the attempt is over. If the event is lost, the next
        owner starts the task when its lease expires."""
        if attempt.accepted:
            self._task_log.emit(self._released(attempt, "shutting_down", 0.0, counts=False), attempt.partition)

    def _released(self, attempt: Attempt, code: str, delay: float, counts: bool) -> Released:
        self._metrics.retries.labels(attempt.task.model_name, code).inc()
        logger.info("requeued", extra={"task_id": attempt.task.task_id, "attempt": attempt.number, "code": code})
        return attempt.released(self.owner, self._clock.now(), code, delay, counts)

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
            exiting = (task := asyncio.current_task()) is not None and task.cancelling()
            if exiting or attempt.stopped_by is None:
                raise
            raise attempt.stopped_by from None
        finally:
            deadline.cancel()
            attempt.generating = None

    async def _read_frames(self, attempt: Attempt, slot: Slot) -> None:
        began = emitted = self._clock.monotonic()
        inputs = await self._fetch_inputs(attempt.task)
        async with aclosing(slot.runner.run(attempt.request(self._max_runtime), inputs)) as frames:
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
                            self._task_log.emit(attempt.progress(self.owner, self._clock.now()), attempt.partition)
                    case Preview():
                        self._emit_preview(attempt, frame)
                    case Image():
                        attempt.images.append(frame)
                    case End():
                        attempt.timings = Timings(
                            queued=attempt.queued_seconds,
                            loading=frame.seconds_loading,
                            generating=frame.seconds_generating,
                        )
                        attempt.acceleration = frame.acceleration
                    case _:
                        continue
        if len(attempt.images) != attempt.task.image_params.num_images:
            raise GenerationFailed(
                f"The runner ended with {len(attempt.images)} of {attempt.task.image_params.num_images} images."
            )

    async def _fetch_inputs(self, task: Task) -> list[Input]:
        """The files that the task's images start from. Runners have no access to the store, so the
        consumer sends the files with the request.

        Raises InputMissing.
        """
        inputs = []
        for reference in task.inputs:
            try:
                data = await self._retry_until_available(functools.partial(self._store.get_image, reference.key))
            except UnknownImage as error:
                raise InputMissing(f"The input {reference.name} is no longer in the store.") from error
            inputs.append(Input(name=reference.name, content_type=reference.content_type, payload=data))
        return inputs

    def _emit_preview(self, attempt: Attempt, frame: Preview) -> None:
        """Emit the preview, unless it is too large or comes too soon after the previous one: a runner of another
        version may not keep these limits, and a preview is not worth a failed attempt."""
        now = self._clock.monotonic()
        too_soon = attempt.previewed_at is not None and now - attempt.previewed_at < PREVIEW_SECONDS
        if not attempt.task.previews or too_soon or len(frame.payload) > PREVIEW_BYTES:
            return
        attempt.previewed_at = now
        self._task_log.emit_preview(attempt.preview(frame, self.owner, self._clock.now()))

    def _begin(self, attempt: Attempt, slot: Slot) -> None:
        attempt.accepted = True
        self._task_log.emit(attempt.started(self.owner, self._clock.now()), attempt.partition)
        fields = {"task_id": attempt.task.task_id, "attempt": attempt.number, "runner": slot.runner.url}
        logger.info("started", extra=fields)

    async def _failed(self, attempt: Attempt, error: TaskError) -> Outcome | Released:
        attempt.images.clear()
        fields = {"task_id": attempt.task.task_id, "code": error.code(), "detail": error.detail}
        logger.info("attempt failed", extra=fields | {"attempt": attempt.number})
        decision = decide(error, attempt.tries)
        if isinstance(decision, Fail):
            return await self.finish(attempt.task, attempt.partition, attempt=attempt, error=decision.error)
        return await self.release(attempt, error.code(), decision.delay, decision.counts)

    async def _store_images(self, attempt: Attempt) -> tuple[StoredImage, ...]:
        unique = f"{attempt.number}-{secrets.token_hex(4)}"
        task_id, suffix = attempt.task.task_id, attempt.task.image_params.format

        async def put(image: Image) -> StoredImage:
            data = image.payload
            key = image_key(task_id, f"{unique}-{image.index}", suffix)
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

        in_order = sorted(attempt.images, key=lambda image: image.index)
        puts = await asyncio.gather(*map(put, in_order), return_exceptions=True)
        stored = tuple(image for image in puts if isinstance(image, StoredImage))
        for error in puts:
            if isinstance(error, BaseException):
                # The next attempt stores its images under other names, so these would stay in the store for ever.
                await self._retry_until_available(lambda: self._store.delete_images([image.key for image in stored]))
                raise error
        return stored

    async def _heartbeat(self, attempt: Attempt) -> None:
        while True:
            await self._clock.sleep(HEARTBEAT_SECONDS)
            if attempt.accepted:
                self._task_log.emit(attempt.progress(self.owner, self._clock.now()), attempt.partition)

    async def _retry_until_available(self, call: Callable[[], Awaitable[T]]) -> T:
        delays = itertools.chain(BACKOFF_SECONDS, itertools.repeat(BACKOFF_SECONDS[-1]))
        while True:
            try:
                return await call()
            except (StoreUnavailable, QueueUnavailable):
                await self._clock.sleep(next(delays))


def _failure(error: TaskError) -> TaskFailure:
    """The error as the user reads it. The detail of an error of the service may quote an exception or name an address,
    so that the user gets the sentence of the catalogue alone."""
    quoted = error.status < HTTPStatus.INTERNAL_SERVER_ERROR
    return TaskFailure(code=error.code(), message=error.detail if quoted else error.title())
