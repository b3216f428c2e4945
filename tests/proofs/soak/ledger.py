"""What the users requested and which answers they got. Contradictory answers are noted as problems."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ENDED = frozenset({"completed", "failed", "canceled", "expired"})
Body = Mapping[str, Any]


@dataclass
class Ledger:
    """The requests and answers of all users together."""

    accepted: dict[str, Body] = field(default_factory=dict)
    """The body of each accepted request, by task id."""
    unknown: list[Body] = field(default_factory=list)
    """Bodies that were sent once and got no answer: their tasks may or may not be in the log."""
    ends: dict[str, str] = field(default_factory=dict)
    """How each task ended according to the API, by task id."""
    refused: Counter[str] = field(default_factory=Counter)
    """Submits that were not accepted, by the answer."""
    unanswered: Counter[str] = field(default_factory=Counter)
    """Other requests without a useful answer, by the answer."""
    done: Counter[str] = field(default_factory=Counter)
    """The actions that users completed."""
    problems: list[str] = field(default_factory=list)

    def accept(self, task_id: str, body: Body) -> None:
        """Note that a submit was answered with this id."""
        first_body = self.accepted.setdefault(task_id, body)
        if first_body != body:
            self.problems.append(f"task {task_id} was the answer to two different requests: {first_body} and {body}")

    def report(self, task_id: str, status: str) -> bool:
        """Note that the API answered this status. Returns whether the task has ended."""
        end = self.ends.get(task_id)
        if end is not None and end != status:
            self.problems.append(f"task {task_id} was reported as {end} and then as {status}")
        if status in ENDED:
            self.ends.setdefault(task_id, status)
        return status in ENDED
