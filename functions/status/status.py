"""Where a task stands: from the view, then from the store."""

import asyncio
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from adapters.view import TaskView
from functions.status.task_index import TaskIndex
from tasks.errors import AlreadyEnded, UnknownTask
from tasks.events import CancelRequested, Outcome
from tasks.ports import Clock, ImageStore, TaskLog
from tasks.state import TaskState
from tasks.task import TASK_ID, Task

_LATEST = 253_402_300_799.0
"""The end of the year 9999: no date is later."""


@dataclass(frozen=True)
class Known:
    """All that is known of a task that has a record."""

    task: Task
    state: TaskState
    outcome: Outcome | None
    partition: int | None
    updated_at: float


@dataclass(frozen=True)
class Status:
    """The status function, on these parts."""

    log: TaskLog
    store: ImageStore
    follower: TaskIndex
    clock: Clock
    public_url: str = ""

    async def get(self, task_id: str) -> Known:
        """What is known of the task. Raises UnknownTask only once everything written by now has been looked through;
        QueueUnavailable or StoreUnavailable where it could not be."""
        if not re.fullmatch(TASK_ID, task_id):
            raise UnknownTask("A task id has 32 lower-case hex digits.")
        known = self.read(task_id)
        if known is None:
            await self.follower.caught_up()
            known = await self.find(task_id)
        if known is None:
            raise UnknownTask
        return known

    async def find(self, task_id: str) -> Known | None:
        """The same from what has been read already."""
        known = self.read(task_id)
        if known is not None:
            return known
        outcome = await self.store.get_outcome(task_id)
        if outcome is None:
            return None
        state = TaskState(outcome.status, tries=outcome.tries)
        return Known(outcome.task, state, outcome, None, outcome.at)

    async def wait(self, task_id: str, seconds: float) -> Known:
        """The task once it has ended, or as it is after so many seconds, or when the gateway is about to end."""
        with self.follower.watching(task_id) as changed:
            known = await self.get(task_id)
            try:
                async with asyncio.timeout(seconds):
                    while not known.state.ended and not self.follower.closing:
                        await changed.wait()
                        changed.clear()
                        known = await self.get(task_id)
            except TimeoutError:
                return await self.get(task_id)
        return known

    async def cancel(self, task_id: str) -> Known:
        """Ask the owner to end the task. Raises AlreadyEnded where it ended otherwise."""
        known = await self.get(task_id)
        if known.state.status == "canceled":
            return known
        if known.state.ended or known.partition is None:
            raise AlreadyEnded(f"The task has already ended: it is {known.state.status}.")
        await self.log.append_event(CancelRequested(task_id=task_id, at=self.clock.now()), known.partition)
        return known

    def document(self, known: Known) -> dict[str, Any]:
        """The answer to "where is my picture?"."""
        task, state, outcome = known.task, known.state, known.outcome
        base = self.public_url
        images = [
            {
                "url": f"{base}/get_image/{task.task_id}?index={index}",
                "index": index,
                "content_type": image.content_type,
                "width": image.width,
                "height": image.height,
                "size": image.size,
                "seed": image.seed,
            }
            for index, image in enumerate(outcome.images if outcome else ())
        ]
        error = outcome.error.model_dump() if outcome and outcome.error else None
        steps = task.image_params.steps
        completed = state.status == "completed"
        return {
            "task_id": task.task_id,
            "status": state.status,
            "position": self.follower.queues.position(task.task_id) if state.status == "queued" else None,
            "estimated_seconds": self._estimate(task, state),
            "progress": {"step": steps if completed else state.step, "steps": steps},
            "model_name": task.model_name,
            "alias": task.alias,
            "topic": task.topic,
            "attempt": state.tries,
            "seed": task.image_params.seed,
            "image_url": f"{base}/get_image/{task.task_id}" if images else None,
            "images": images,
            "error": error,
            "error_message": error["message"] if error else None,
            "timings": (
                outcome.timings.model_dump()
                if outcome
                else {"queued": None, "loading": None, "generating": None, "storing": None}
            ),
            "acceleration": outcome.acceleration if outcome else {},
            "status_url": f"{base}/check_status/{task.task_id}",
            "created_at": _rfc3339(task.created_at),
            "updated_at": _rfc3339(known.updated_at),
        }

    def _estimate(self, task: Task, state: TaskState) -> float | None:
        estimate = self.follower.queues.estimate(task, state, self.follower.view.cards().get(task.model_name))
        return None if estimate is None else round(estimate, 3)

    def read(self, task_id: str) -> Known | None:
        """The same from the view alone."""
        view: TaskView | None = self.follower.view.get(task_id)
        if view is None or view.task is None:
            return None if view is None or view.outcome is None else _ended(view.outcome, view.partition)
        return Known(view.task, view.state, view.outcome, view.partition, max(view.updated_at, view.task.created_at))


def _ended(outcome: Outcome, partition: int) -> Known:
    return Known(outcome.task, TaskState(outcome.status, tries=outcome.tries), outcome, partition, outcome.at)


def _rfc3339(unix: float) -> str:
    # Anybody may have written a record, with any time.
    return (
        datetime.fromtimestamp(min(max(unix, 0.0), _LATEST), UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
