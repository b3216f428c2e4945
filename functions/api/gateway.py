"""What the gateway can do, for every face. No HTTP here."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from config.settings import Settings
from functions.api.caller import Caller
from functions.api.limits import ClientLimits, clients_of
from functions.status.document import Links, TaskSnapshot, TaskStatus, make_document
from functions.status.images import Images, image_of
from functions.status.model_list import ModelList, list_models
from functions.status.scale import ModelScale, scale_of
from functions.status.status import Status
from functions.status.task_index import TaskIndex
from functions.submit.submit import Submit
from tasks.errors import NoImage, NoPreview, StoreUnavailable, UnknownImage, UnknownTask, UntrustedOutcome
from tasks.events import StoredImage
from tasks.names import find_model
from tasks.preview import Preview
from tasks.task import GenerateRequest

T = TypeVar("T")


class Gateway:
    """Submit and status on behalf of a caller. For a task that the caller does not own each method raises UnknownTask,
    exactly as for one that does not exist."""

    def __init__(self, settings: Settings, submit: Submit, status: Status, links: Links, limits: ClientLimits) -> None:
        """`links`: where clients find what the status document refers to."""
        self.settings = settings
        self.index: TaskIndex = status.index
        """All tasks, as this gateway has read them."""
        self._submit = submit
        self._status = status
        self._links = links
        self._limits = limits
        self._images = Images(status.store)
        self._submitting: set[asyncio.Task[TaskSnapshot]] = set()

    async def generate(
        self,
        request: GenerateRequest,
        caller: Caller,
        *,
        wait: float | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> TaskSnapshot:
        """Submit, and with `wait` return when the task has ended or this many seconds have passed.

        Canceling a call that waits ends only the wait: the task is submitted and stays in the queue. Raises
        NotAllowedByKey, TooManyWaits and what `Submit` raises.
        """
        if wait is None:
            return await self._submit_for(request, caller, idempotency_key, traceparent)
        with self._limits.waits.hold(clients_of(caller)):
            submitted = self._submit_for(request, caller, idempotency_key, traceparent)
            snapshot = await self._uninterrupted(submitted)
            return snapshot if snapshot.state.ended else await self._status.wait(snapshot.task.task_id, wait)

    async def _submit_for(
        self, request: GenerateRequest, caller: Caller, idempotency_key: str | None, traceparent: str | None
    ) -> TaskSnapshot:
        request = caller.as_user(request)
        return await self._submit(request, idempotency_key, traceparent, permission=caller.permission)

    async def _uninterrupted(self, submitted: Coroutine[Any, Any, TaskSnapshot]) -> TaskSnapshot:
        submitting = asyncio.ensure_future(submitted)
        self._submitting.add(submitting)  # The event loop itself keeps only a weak reference.
        submitting.add_done_callback(self._submitting.discard)
        return await asyncio.shield(submitting)

    async def get(self, task_id: str, caller: Caller) -> TaskSnapshot:
        """The caller's task as it is now. Raises UnknownTask, TooManyUnknownIds, QueueUnavailable, StoreUnavailable,
        StartingUp, UntrustedOutcome."""
        snapshot = self._status.find_in_view(task_id)
        if snapshot is not None and caller.owns(snapshot.task):
            return snapshot
        # Spent also for a task of somebody else: otherwise the two answers would show that the task exists.
        clients = clients_of(caller)
        self._limits.unknown_ids.spend(clients)
        snapshot = _owned(snapshot or await self._status.get(task_id), caller)
        self._limits.unknown_ids.give_back(clients)
        return snapshot

    async def wait(self, task_id: str, caller: Caller, seconds: float) -> TaskSnapshot:
        """The caller's task when it has ended or this many seconds have passed. Raises TooManyWaits and what `get`
        raises."""
        with self._limits.waits.hold(clients_of(caller)):
            await self.get(task_id, caller)
            # Its outcome may show that it is another's task, see TaskSnapshot.from_view.
            return _owned(await self._status.wait(task_id, seconds), caller)

    async def changes(
        self, task_id: str, caller: Caller, heartbeat: float
    ) -> AsyncGenerator[TaskSnapshot | Preview | None, None]:
        """The caller's task now and after every change until it has ended, see `Status.changes`. Raises TooManyStreams
        and what `get` raises before the first of them."""
        await self.get(task_id, caller)
        changes = self._limited_changes(task_id, caller, heartbeat)
        await anext(changes)  # takes the place: the caller cannot answer 429 after the answer has begun
        return changes

    async def _limited_changes(
        self, task_id: str, caller: Caller, heartbeat: float
    ) -> AsyncGenerator[TaskSnapshot | Preview | None, None]:
        """Nothing (None) as soon as the client has its place for a stream, then the changes."""
        with self._limits.streams.hold(clients_of(caller)):
            yield None
            async with aclosing(_while_owned(self._status.changes(task_id, heartbeat), caller)) as changes:
                async for change in changes:
                    yield change

    async def cancel(self, task_id: str, caller: Caller) -> TaskSnapshot:
        """Ask for the cancel of the caller's task. Raises AlreadyEnded and what `get` raises."""
        return await self._status.cancel(await self.get(task_id, caller))

    async def image(self, task_id: str, caller: Caller, index: int, answer: Callable[[StoredImage], Awaitable[T]]) -> T:
        """What `answer` makes of the image of this index of the caller's task. Raises what `get`, `image_of` and
        `answer` raise.

        The announced outcome comes from Kafka, where others may write; the stored one is written once, by the owner of
        the task. So the stored one is asked where the announced one has no such image or describes another object, and
        with API keys on always, because only it proves whose image it is.
        """
        snapshot = await self.get(task_id, caller)
        proven = caller.user is None or snapshot.partition is None
        try:
            image = image_of(snapshot, index)
            return await answer(image if proven else image_of(await self._as_stored(snapshot, caller), index))
        except (NoImage, UnknownImage, UntrustedOutcome):
            if not proven or not (stored := await self._if_stored_otherwise(snapshot, caller)):
                raise
        return await answer(image_of(stored, index))

    async def _as_stored(self, snapshot: TaskSnapshot, caller: Caller) -> TaskSnapshot:
        outcome = await self._status.store.get_outcome(snapshot.task.task_id)
        if outcome is None:
            raise UnknownImage("The images of the task are no longer in the store.")
        return _owned(TaskSnapshot.from_outcome(outcome), caller)

    async def _if_stored_otherwise(self, snapshot: TaskSnapshot, caller: Caller) -> TaskSnapshot | None:
        """The task as its stored outcome describes it; None if that gives no other images."""
        try:
            stored = await self._as_stored(snapshot, caller)
        except (StoreUnavailable, UnknownImage):
            return None
        return None if snapshot.outcome == stored.outcome else stored

    async def preview(self, task_id: str, caller: Caller) -> Preview:
        """The newest preview of the caller's task. Raises NoPreview and what `get` raises."""
        await self.get(task_id, caller)
        if (preview := self.index.previews.get(task_id)) is None:
            raise NoPreview
        return preview

    async def read_image(self, image: StoredImage, first: int = 0, last: int | None = None) -> bytes:
        """See `Images.read`."""
        return await self._images.read(image, first, last)

    def models(self, caller: Caller) -> ModelList:
        """The models that the caller may use, and what each can do."""
        return list_models(self.index, caller.permission)

    async def scale(self, name: str, caller: Caller) -> ModelScale:
        """The unfinished tasks of a model that the caller may use, and the runners they need. Every gateway gives the
        same tasks, because it first reads everything that the log holds now: a gateway that answered before that would
        let a scaler end the runners. Raises UnknownModel, NotAllowedByKey, QueueUnavailable, StartingUp."""
        await self.index.caught_up()
        model = find_model(name, self.index.view.models(), caller.permission)
        return scale_of(model, self.index.queues, self.settings.scale_target_wait)

    def document(self, snapshot: TaskSnapshot) -> TaskStatus:
        """The status document of the task, with its place in the queue as it is now."""
        index = self.index
        has_preview = snapshot.task.task_id in index.previews
        return make_document(snapshot, index.queues, index.view.models(), self._links, has_preview=has_preview)


def _owned(snapshot: TaskSnapshot, caller: Caller) -> TaskSnapshot:
    """The snapshot. Raises UnknownTask if it is not of the caller's task."""
    if not caller.owns(snapshot.task):
        raise UnknownTask
    return snapshot


async def _while_owned(
    changes: AsyncGenerator[TaskSnapshot | Preview | None, None], caller: Caller
) -> AsyncGenerator[TaskSnapshot | Preview | None, None]:
    """The changes, up to the first that shows another's task. They also end if the task is no longer known."""
    async with aclosing(changes):
        try:
            async for change in changes:
                if isinstance(change, TaskSnapshot):
                    _owned(change, caller)
                yield change
        except UnknownTask:
            return
