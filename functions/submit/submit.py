"""Submit: check the request, append the task to its lane, read it back."""

import asyncio
import logging
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from config.settings import Settings
from functions.status.document import TaskSnapshot
from functions.status.status import Status
from functions.status.task_index import TaskIndex
from functions.submit.admission import Limits, refusal
from functions.submit.task_ids import MAX_KEY, TaskIds
from tasks.accept import accept
from tasks.errors import IdempotencyKeyReused, InvalidRequest, TaskError
from tasks.fingerprint import fingerprint, is_request_of, request_sha256
from tasks.log import Place
from tasks.names import EVERYTHING, Permission, find_lane
from tasks.ports import Clock, TaskWriter
from tasks.task import GenerateRequest, Task

logger = logging.getLogger(__name__)

_READ_BACK_SECONDS = 0.25
"""How long a submit waits to read its own record back: only then is the task's position known."""
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
class Submit:
    """The submit function."""

    settings: Settings
    task_log: TaskWriter
    index: TaskIndex
    status: Status
    ids: TaskIds
    clock: Clock

    async def __call__(
        self,
        request: GenerateRequest,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
        permission: Permission = EVERYTHING,
    ) -> TaskSnapshot:
        """The task as accepted and appended. With an Idempotency-Key that was used before, the earlier task as it is
        now. A `traceparent` that is not valid W3C Trace Context is left out.

        Raises the TaskError that names what the model cannot do, NotAllowedByKey, InvalidRequest, IdempotencyKeyReused,
        UserQueueFull, QueueFull, QueueUnavailable, StartingUp, and with an Idempotency-Key StoreUnavailable.
        """
        if traceparent is not None and not _TRACEPARENT.fullmatch(traceparent):
            traceparent = None
        if idempotency_key is None:
            return await self._append(request, uuid.uuid4().hex, permission, {"traceparent": traceparent})
        if not 1 <= len(idempotency_key) <= MAX_KEY or not idempotency_key.isprintable():
            raise InvalidRequest(
                f"Idempotency-Key must have 1 to {MAX_KEY} printable characters.", field="Idempotency-Key"
            )
        task_id = await self.ids.of(request.user_id, idempotency_key)
        await self.index.caught_up()
        snapshot = await self.status.find_in_view_or_store(task_id)
        if snapshot is None:
            prints = self._prints(request, permission)
            appended = await self._append(request, task_id, permission, {"traceparent": traceparent, **prints})
            # Another gateway may have appended the same id meanwhile: the first record of an id is the task.
            snapshot = await self.status.find_in_view_or_store(task_id) or appended
        if not is_request_of(snapshot.task, request, self.settings.kafka_topic_prefix):
            raise IdempotencyKeyReused(field="Idempotency-Key")
        return snapshot

    def _prints(self, request: GenerateRequest, permission: Permission) -> dict[str, str | None]:
        """What a retry is compared with, by this version and by 0.1.0, whose gateways may run beside this one during an
        upgrade. They fingerprint the full name of the lane if the key is limited to some lanes."""
        written = request
        if permission.lanes is not None:
            lane = find_lane(request.topic, self.settings.lane_names, permission)
            written = request.model_copy(update={"topic": lane})
        return {
            "fingerprint": fingerprint(written),
            "request_sha256": request_sha256(request, self.settings.kafka_topic_prefix),
        }

    async def _append(
        self, request: GenerateRequest, task_id: str, permission: Permission, fields: Mapping[str, str | None]
    ) -> TaskSnapshot:
        if not self.index.started:
            # What each model can do is read from the log too.
            await self.index.caught_up()
        task = accept(
            request,
            task_id=task_id,
            models=self.index.view.models(),
            lanes=self.settings.lane_names,
            created_at=self.clock.now(),
            permission=permission,
        ).model_copy(update=fields)
        self._check_room(task)
        place = await self._append_expected(task)
        logger.info(
            "accepted",
            extra={"task_id": task_id, "model": task.model_name, "lane": task.topic, "partition": place.partition},
        )
        await self.index.reached({(place.topic, place.partition): place.offset + 1}, _READ_BACK_SECONDS)
        return TaskSnapshot.from_view(self.index.view.get(task_id)) or TaskSnapshot.from_task(task)

    def _check_room(self, task: Task) -> None:
        """Raise UserQueueFull or QueueFull if the queue has no room for the task."""
        queues, model = self.index.queues, self.index.view.models()[task.model_name]
        limits = Limits(self.settings.max_queued_tasks_per_user, self.settings.max_queued_tasks)
        error = refusal(queues.load(task.user_id), limits, queues.queue(task.model_name), model.runners)
        if error is not None:
            raise error

    async def _append_expected(self, task: Task) -> Place:
        """Append the task. It counts towards the limits before it is appended, so that a burst cannot exceed them."""
        queues = self.index.queues
        queues.expect(task)
        try:
            return await self.task_log.append_task(task)
        except (TaskError, asyncio.CancelledError):
            queues.unexpect(task.task_id)
            raise
