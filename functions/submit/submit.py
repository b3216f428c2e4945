"""Validate, append, answer."""

import asyncio
import logging
from dataclasses import dataclass

from config.settings import Settings
from functions.status.status import Known, Status
from functions.status.task_index import TaskIndex
from functions.submit.admission import Limits, refusal
from functions.submit.task_ids import MAX_KEY, TaskIds
from tasks.accept import accept
from tasks.errors import IdempotencyKeyReused, InvalidRequest, TaskError
from tasks.log import Place
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
    follower: TaskIndex
    status: Status
    ids: TaskIds
    clock: Clock

    async def __call__(self, request: GenerateRequest, key: str | None = None, traceparent: str | None = None) -> Known:
        """The task as accepted and appended; with a key that was used before, the one that is there, as it is now.

        Raises the TaskError that says what is not possible, UserQueueFull, QueueFull or QueueUnavailable.
        """
        if key is None:
            return await self._append(request, self.ids.new(), None, traceparent)
        if not 1 <= len(key) <= MAX_KEY or not key.isprintable():
            raise InvalidRequest(
                f"Idempotency-Key must have 1 to {MAX_KEY} printable characters.", field="Idempotency-Key"
            )
        task_id = await self.ids.of(request.user_id, key)
        await self.follower.caught_up()
        mark = fingerprint(request)
        there = await self.status.find(task_id)
        if there is None:
            appended = await self._append(request, task_id, mark, traceparent)
            # Another gateway may have been quicker: the first record of an id is the task.
            there = await self.status.find(task_id) or appended
        if there.task.fingerprint != mark:
            raise IdempotencyKeyReused(field="Idempotency-Key")
        return there

    async def _append(self, request: GenerateRequest, task_id: str, mark: str | None, traceparent: str | None) -> Known:
        if not self.follower.started:
            # What models there are is in the log too.
            await self.follower.caught_up()
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
        self._admit(task)
        place = await self._expecting(task)
        log.info(
            "accepted",
            extra={"task_id": task_id, "model": task.model_name, "lane": task.topic, "partition": place.partition},
        )
        await self.follower.reached({(place.topic, place.partition): place.offset + 1}, _READ_BACK_SECONDS)
        return self.status.read(task_id) or Known(task, TaskState(), None, None, task.created_at)

    def _admit(self, task: Task) -> None:
        queues, card = self.follower.queues, self.follower.view.cards()[task.model_name]
        limits = Limits(self.settings.max_queued_tasks_per_user, self.settings.max_queued_tasks)
        refused = refusal(queues.load(task.user_id), limits, queues.queue(task.model_name), card.runners)
        if refused is not None:
            raise refused

    async def _expecting(self, task: Task) -> Place:
        queues = self.follower.queues
        queues.expect(task)
        try:
            return await self.log.append_task(task)
        except (TaskError, asyncio.CancelledError):
            queues.unexpect(task.task_id)
            raise
