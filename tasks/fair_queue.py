"""Start-time fair queueing of one model's tasks: the next task, exact positions and removal, in one sorted list.

A flow is (lane, user). A task that arrives gets `start = max(V, finish[flow])` and moves its flow's finish by
cost / weight(lane); the task with the smallest (start, sequence) is next and V becomes its start. So a flow gets GPU
time in proportion to its lane's weight, however many tasks it queues, and an idle flow's first task does not wait for
another flow's backlog. (Goyal, Vin, Cheng: Start-time Fair Queueing, SIGCOMM 1996.)
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sortedcontainers import SortedList

MINIMUM_COST = 1e-6
_PRUNE_AT = 1024


class Flow(NamedTuple):
    """One user's tasks on one lane. The queue shares the GPU time fairly between flows."""

    lane: str
    user: str


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """A task's place in the queue. Tasks are served in the order of (start, sequence)."""

    start: float
    sequence: int
    task_id: str
    flow: Flow
    cost: float


class FairQueue:
    """The queued tasks of one model."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        """Weights by lane; a lane without one has 1."""
        self._weights = weights
        self._order: SortedList = SortedList()
        self._entries: dict[str, Entry] = {}
        self._finish: dict[Flow, float] = {}
        self._of_user: Counter[str] = Counter()
        self._virtual = 0.0
        self._latest = 0.0
        self._sequence = 0
        self._cost = 0.0
        self._prune_at = _PRUNE_AT

    def __len__(self) -> int:
        """How many tasks are queued."""
        return len(self._entries)

    def __contains__(self, task_id: str) -> bool:
        """Whether the task is queued here."""
        return task_id in self._entries

    def __iter__(self) -> Iterator[Entry]:
        """The entries in the order of service."""
        return iter(self._order)

    def push(self, task_id: str, flow: Flow, cost: float) -> None:
        """Queue a task of `cost` GPU seconds. A task that is queued already keeps its place."""
        if task_id in self._entries:
            return
        cost = max(cost, MINIMUM_COST)
        start = max(self._virtual, self._finish.get(flow, 0.0))
        self._finish[flow] = start + cost / self._weights.get(flow.lane, 1.0)
        self._latest = max(self._latest, self._finish[flow])
        self._sequence += 1
        self.restore(Entry(start, self._sequence, task_id, flow, cost))
        if len(self._finish) > self._prune_at:
            self._prune()

    def restore(self, entry: Entry) -> None:
        """Put an entry back into its old place, because its attempt ended without an outcome."""
        if entry.task_id not in self._entries:
            self._order.add(entry)
            self._entries[entry.task_id] = entry
            self._of_user[entry.flow.user] += 1
            self._cost += entry.cost

    def peek(self) -> Entry | None:
        """The next task, left where it is."""
        return self._order[0] if self._order else None

    def pop(self) -> Entry | None:
        """Take the next task; the virtual time moves on to its start."""
        if not self._order:
            return None
        entry: Entry = self._order[0]
        self.serve(entry.task_id)
        return entry

    def serve(self, task_id: str) -> Entry | None:
        """Take this task out because an attempt at it begins; the virtual time moves on to its start."""
        entry = self.remove(task_id)
        if entry is not None:
            self._virtual = max(self._virtual, entry.start)
        return entry

    def remove(self, task_id: str) -> Entry | None:
        """Take this task out without serving it: canceled, expired, or its partition was lost."""
        entry = self._entries.pop(task_id, None)
        if entry is not None:
            self._order.remove(entry)
            self._of_user[entry.flow.user] -= 1
            if not self._of_user[entry.flow.user]:
                del self._of_user[entry.flow.user]
            self._cost -= entry.cost
            if not self._entries:
                self._end_busy_period()
        return entry

    def position(self, task_id: str) -> int | None:
        """How many queued tasks are served before it; None when it is not queued."""
        entry = self._entries.get(task_id)
        return None if entry is None else self._order.index(entry)

    def wait_estimate(self, task_id: str) -> float | None:
        """Estimated GPU seconds of the tasks before it: their number times the mean cost. None if it is not queued."""
        position = self.position(task_id)
        return None if position is None else position * self.mean_cost

    def of_user(self, user: str) -> int:
        """How many tasks of this user are queued, over all lanes."""
        return self._of_user[user]

    @property
    def users(self) -> int:
        """How many users have a task queued."""
        return len(self._of_user)

    @property
    def mean_cost(self) -> float:
        """GPU seconds of a queued task, on average; 0: none is queued."""
        return self._cost / len(self._entries) if self._entries else 0.0

    def _end_busy_period(self) -> None:
        """Nothing is queued: the busy period is over, so no flow owes anything (the paper's rule 2b)."""
        self._virtual = max(self._virtual, self._latest)
        self._finish.clear()
        self._cost = 0.0

    def _prune(self) -> None:
        self._finish = {flow: finish for flow, finish in self._finish.items() if finish > self._virtual}
        self._prune_at = max(_PRUNE_AT, 2 * len(self._finish))
