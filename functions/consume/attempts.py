"""Starts and stops the attempts of this process, and follows their events after their partition is lost."""

from collections.abc import Callable, Collection

from adapters.view import View
from functions.consume.attempt import Attempt
from functions.consume.background import Background
from functions.consume.handler import Handler
from functions.consume.metrics import Metrics
from functions.consume.orphans import watch_orphans
from functions.consume.runner_pool import Slot
from tasks.errors import TakenOver
from tasks.events import Released
from tasks.log import Partition
from tasks.ownership import Action
from tasks.ports import Clock, TaskLog
from tasks.state import TaskState
from tasks.task import Task


class Attempts:
    """At most one attempt per task. An attempt stays here until it is over, also when its partition is lost."""

    def __init__(
        self,
        *,
        handler: Handler,
        view: View,
        task_log: TaskLog,
        background: Background,
        clock: Clock,
        owner: str,
        metrics: Metrics,
        may_begin: Callable[[Attempt], bool],
        on_over: Callable[[Attempt], None],
    ) -> None:
        """`may_begin` is called just before an attempt calls its runner, `on_over` when an attempt is over."""
        self._handler = handler
        self._view = view
        self._task_log = task_log
        self._background = background
        self._clock = clock
        self._owner = owner
        self._metrics = metrics
        self._may_begin = may_begin
        self._on_over = on_over
        self.under_way: dict[str, Attempt] = {}
        """By task id."""

    @property
    def storing(self) -> int:
        """How many attempts have images that wait to be stored."""
        return sum(attempt.storing for attempt in self.under_way.values())

    def __contains__(self, task_id: str) -> bool:
        """Whether an attempt at the task is under way here."""
        return task_id in self.under_way

    def number(self, task_id: str) -> int | None:
        """The number of the attempt at the task that is under way here; None: there is none."""
        attempt = self.under_way.get(task_id)
        return None if attempt is None else attempt.number

    def start(self, task: Task, partition: Partition, state: TaskState, slot: Slot) -> None:
        """Begin the next attempt at the task on the slot's runner. `state` is the task's state now."""
        attempt = Attempt.after(state, task, partition, self._clock.now())
        self.under_way[task.task_id] = attempt
        self._background.spawn(self._run(attempt, slot))

    async def _run(self, attempt: Attempt, slot: Slot) -> None:
        self._metrics.running.inc()
        try:
            result = await self._handler.run(attempt, slot, self._may_begin)
            if result is None or (isinstance(result, Released) and not attempt.accepted):
                attempt.release_seen = True  # No event was written, so there is none to wait for.
        finally:
            del self.under_way[attempt.task.task_id]
            attempt.over.set()
            self._metrics.running.dec()
            self._on_over(attempt)

    def apply(self, task_id: str, action: Action) -> None:
        """Apply the owner's decision about the task to its attempt, if one is under way here."""
        if attempt := self.under_way.get(task_id):
            attempt.apply(action)

    def note_release(self, event: Released) -> None:
        """Note that a Released event was read. If its attempt is still ending here, the attempt remembers the event,
        because no later event will say that the task may start again."""
        attempt = self.under_way.get(event.task_id)
        if attempt is not None and (event.owner, event.attempt) == (self._owner, attempt.number):
            attempt.release_seen = True

    def stop_unaccepted(self, partitions: Collection[Partition]) -> None:
        """Stop the attempts of these partitions that no runner has accepted. The next owner reads the events only up to
        the present end of the log, so it would miss a Started event that is written from now on."""
        for attempt in self.under_way.values():
            if attempt.partition in partitions and not attempt.accepted:
                attempt.stop(TakenOver("The task was left to the next owner of its partition."))

    def orphan(self, partitions: Collection[Partition]) -> None:
        """Keep reading the events of attempts that still run on partitions we no longer own."""
        orphans = {
            task_id: (attempt, seen.state)
            for task_id, attempt in self.under_way.items()
            if attempt.partition in partitions
            and attempt.accepted
            and not attempt.orphaned
            and (seen := self._view.get(task_id)) is not None
        }
        if not orphans:
            return
        topic, read = self._task_log.events_topic, self._view.offsets()
        offsets = {attempt.partition: read.get((topic, attempt.partition), 0) for attempt, _ in orphans.values()}
        for attempt, _ in orphans.values():
            attempt.orphaned = True
        self._background.spawn(watch_orphans(self._task_log, self._owner, orphans, offsets))
