"""Validate, append, answer."""

import logging
from dataclasses import dataclass

from config.settings import Settings
from functions.status.follower import Follower
from functions.status.status import Known, Status
from functions.submit.task_ids import MAX_KEY, TaskIds
from tasks.accept import accept
from tasks.errors import IdempotencyKeyReused, InvalidRequest
from tasks.ports import Clock, TaskLog
from tasks.state import TaskState
from tasks.task import GenerateRequest, Task, fingerprint

log = logging.getLogger(__name__)

_READ_BACK_SECONDS = 0.25
"""How long an answer waits for the position that only the log can tell."""


@dataclass(frozen=True)
class Submit:
    """The submit function, on these parts."""

    settings: Settings
    log: TaskLog
    follower: Follower
    status: Status
    ids: TaskIds
    clock: Clock

    async def __call__(self, request: GenerateRequest, key: str | None = None, traceparent: str | None = None) -> Task:
        """The task as accepted and appended; with a key that was used before, the task that is there already.

        Raises the TaskError that says what is not possible, or QueueUnavailable.
        """
        if key is None:
            return await self._append(request, self.ids.new(), None, traceparent)
        if not 1 <= len(key) <= MAX_KEY or not key.isprintable():
            raise InvalidRequest(f"Idempotency-Key must have 1 to {MAX_KEY} printable characters.", field="Idempotency-Key")
        task_id = await self.ids.of(request.user_id, key)
        await self.follower.caught_up()
        mark = fingerprint(request)
        there = await self._known(task_id)
        if there is None:
            appended = await self._append(request, task_id, mark, traceparent)
            # Another gateway may have been quicker: the first record of an id is the task.
            there = await self._known(task_id) or appended
        if there.fingerprint != mark:
            raise IdempotencyKeyReused(field="Idempotency-Key")
        return there

    def fresh(self, task: Task) -> Known:
        """A task just appended that the view has not read yet."""
        return Known(task, TaskState(), None, None, task.created_at)

    async def _known(self, task_id: str) -> Task | None:
        known = await self.status.find(task_id)
        return None if known is None else known.task

    async def _append(self, request: GenerateRequest, task_id: str, mark: str | None, traceparent: str | None) -> Task:
        task = accept(
            request,
            task_id=task_id,
            cards=self.follower.view.cards(),
            lanes=self.settings.lane_names,
            created_at=self.clock.now(),
            fingerprint=mark,
        )
        if traceparent is not None:
            task = task.model_copy(update={"traceparent": traceparent})
        place = await self.log.append_task(task)
        log.info(
            "accepted",
            extra={"task_id": task_id, "model": task.model_name, "lane": task.topic, "partition": place.partition},
        )
        await self.follower.reached({(place.topic, place.partition): place.offset + 1}, _READ_BACK_SECONDS)
        return task
