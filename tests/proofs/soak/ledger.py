"""What people asked for and were told; where two answers cannot both be true, or one never should be, it says so."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ENDED = frozenset({"completed", "failed", "canceled", "expired"})
Body = Mapping[str, Any]


@dataclass
class Ledger:
    """Of all users together."""

    accepted: dict[str, Body] = field(default_factory=dict)
    """Task id and the body it was asked for with."""
    unknown: list[Body] = field(default_factory=list)
    """Asked for once, and the answer never came: in the log, or not."""
    told: dict[str, str] = field(default_factory=dict)
    """Task id and how people were told it ended."""
    refused: Counter[str] = field(default_factory=Counter)
    """Submits that were not taken, by the answer."""
    unanswered: Counter[str] = field(default_factory=Counter)
    """All other requests that had no use, by the answer."""
    did: Counter[str] = field(default_factory=Counter)
    """What people did to the end."""
    problems: list[str] = field(default_factory=list)

    def accept(self, task_id: str, body: Body) -> None:
        """A submit was answered with this id."""
        known = self.accepted.setdefault(task_id, body)
        if known != body:
            self.problems.append(f"task {task_id} was the answer to two different requests: {known} and {body}")

    def tell(self, task_id: str, status: str) -> bool:
        """A person was told this status; whether it is an end."""
        before = self.told.get(task_id)
        if before is not None and before != status:
            self.problems.append(f"task {task_id} was told as {before} and then as {status}")
        if status in ENDED:
            self.told.setdefault(task_id, status)
        return status in ENDED
