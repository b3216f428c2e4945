"""The fair queue of every model. A consumer starts tasks in its order; a gateway computes positions from it."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tasks.capabilities import ServedModel
from tasks.fair_queue import Entry, FairQueue, Flow
from tasks.log import Partition
from tasks.state import TaskState
from tasks.task import Task


@dataclass(slots=True)
class _Unfinished:
    model: str
    partition: Partition
    created_at: float
    pixel_steps: int
    entry: Entry | None = None
    """Its place in the queue, kept while an attempt runs."""


class Load(NamedTuple):
    """How many tasks are queued, without the running ones: `of_user` one user's, `of_all` all users'."""

    of_user: int
    of_all: int


class Work(NamedTuple):
    """The unfinished tasks of one model. `pixel_steps`: images x steps x pixels of all of them, a running one in full.
    These are whole numbers that follow from the log alone, so every gateway has the same."""

    queued: int = 0
    running: int = 0
    pixel_steps: int = 0


class Queues:
    """The unfinished tasks of some partitions, by model."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        """Weights by lane, as the fair queue takes them."""
        self._weights = weights
        self._queues: dict[str, FairQueue] = {}
        self._unfinished: dict[str, _Unfinished] = {}
        self._tasks_of: Counter[str] = Counter()
        self._pixel_steps_of: Counter[str] = Counter()
        self._expected: dict[str, str] = {}
        self._expected_of: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many unfinished tasks there are, running ones included."""
        return len(self._unfinished)

    def __contains__(self, task_id: str) -> bool:
        """Whether the task is unfinished and has a place, queued or running."""
        return task_id in self._unfinished

    def add(self, task: Task, partition: Partition, state: TaskState) -> None:
        """Add a task in this state. It gets a place in the queue, and is taken out at once if it already runs."""
        self.unexpect(task.task_id)
        if state.ended or task.task_id in self._unfinished:
            return
        pixel_steps = task.image_params.pixels * task.image_params.steps
        self._unfinished[task.task_id] = _Unfinished(task.model_name, partition, task.created_at, pixel_steps)
        self._tasks_of[task.model_name] += 1
        self._pixel_steps_of[task.model_name] += pixel_steps
        self.queue(task.model_name).push(task.task_id, Flow(task.topic, task.user_id), task.cost)
        self.move(task.task_id, state)

    def move(self, task_id: str, state: TaskState) -> None:
        """Follow the task's state: `remove`, `serve` or `restore` it. A task that was never added is ignored."""
        if state.ended:
            self.remove(task_id)
        elif state.status == "running":
            self.serve(task_id)
        else:
            self.restore(task_id)

    def serve(self, task_id: str) -> None:
        """An attempt at the task begins: it leaves the queue and keeps its place for a `restore`."""
        if task := self._unfinished.get(task_id):
            task.entry = self.queue(task.model).serve(task_id) or task.entry

    def restore(self, task_id: str) -> None:
        """The attempt ended without an outcome: the task returns to its old place in the queue."""
        if (task := self._unfinished.get(task_id)) and task.entry is not None:
            self.queue(task.model).restore(task.entry)
            task.entry = None

    def remove(self, task_id: str) -> None:
        """The task ended: it leaves the queue for good."""
        if task := self._unfinished.pop(task_id, None):
            self.queue(task.model).remove(task_id)
            self._tasks_of[task.model] -= 1
            self._pixel_steps_of[task.model] -= task.pixel_steps

    def queue(self, model: str) -> FairQueue:
        """The model's queue."""
        if model not in self._queues:
            self._queues[model] = FairQueue(self._weights)
        return self._queues[model]

    def expect(self, task: Task) -> None:
        """A task is about to be appended: it counts in `load` from now on, until it is added or `unexpect`ed."""
        if task.task_id not in self._unfinished and task.task_id not in self._expected:
            self._expected[task.task_id] = task.user_id
            self._expected_of[task.user_id] += 1

    def unexpect(self, task_id: str) -> None:
        """The task was read back, or could not be appended: it no longer counts as expected."""
        user = self._expected.pop(task_id, None)
        if user is not None:
            self._expected_of[user] -= 1
            if not self._expected_of[user]:
                del self._expected_of[user]

    def load(self, user: str) -> Load:
        """How many tasks are queued now. The time this takes grows with the number of models, not of tasks."""
        queues = self._queues.values()
        return Load(
            of_user=self._expected_of[user] + sum(queue.of_user(user) for queue in queues),
            of_all=len(self._expected) + sum(map(len, queues)),
        )

    def work(self, model: str) -> Work:
        """The unfinished tasks of this model. The time this takes does not grow with their number."""
        queued = len(self._queues.get(model, ()))
        return Work(queued, self._tasks_of[model] - queued, self._pixel_steps_of[model])

    def models(self) -> Iterator[str]:
        """Every model that has had a task."""
        return iter(tuple(self._queues))

    def position(self, task_id: str) -> int | None:
        """How many queued tasks of the model are served before it; None when it is not queued."""
        task = self._unfinished.get(task_id)
        return None if task is None else self.queue(task.model).position(task_id)

    def estimate(self, task: Task, state: TaskState, model: ServedModel | None) -> float | None:
        """Estimated seconds until the task is done, from the cost of the tasks before it and the number of runners.
        None if it has ended or its model is unknown."""
        if state.ended or model is None:
            return None
        if state.status == "running":
            return task.cost * (1 - state.step / state.steps) if state.steps else task.cost
        ahead = self.queue(task.model_name).wait_estimate(task.task_id) or 0.0
        return state.delay + ahead / max(1, model.runners) + task.cost

    def forget(self, partitions: Collection[Partition]) -> list[str]:
        """Drop the tasks of these partitions and return their ids."""
        dropped = [task_id for task_id, task in self._unfinished.items() if task.partition in partitions]
        for task_id in dropped:
            self.remove(task_id)
        return dropped

    def depths(self, now: Callable[[], float]) -> Iterator[tuple[str, str, int, float]]:
        """For each model and lane with queued tasks: model, lane, how many tasks are queued, and the age of the oldest
        in seconds."""
        for model, queue in self._queues.items():
            lanes: dict[str, tuple[int, float]] = {}
            for entry in queue:
                count, oldest = lanes.get(entry.flow.lane, (0, now()))
                lanes[entry.flow.lane] = (count + 1, min(oldest, self._unfinished[entry.task_id].created_at))
            for lane, (count, oldest) in lanes.items():
                yield model, lane, count, max(0.0, now() - oldest)
