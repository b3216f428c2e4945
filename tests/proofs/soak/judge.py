"""Which promises were broken, and what the faults cost: pure functions of the evidence."""

from collections import Counter, defaultdict
from dataclasses import dataclass

from tasks.events import Outcome, Released, Started
from tests.proofs.soak.evidence import Evidence, TopicRecords
from tests.proofs.soak.ledger import ENDED, Ledger
from tests.proofs.soak.pictures import PictureComparison, picture_error

OWNER_GONE = "its owner was gone"
MAY_FAIL = frozenset({"runner_lost"})
"""The only errors of a valid request: its runner was killed during every try."""


def broken_promises(evidence: Evidence, ledger: Ledger, comparison: PictureComparison) -> list[str]:
    """Every broken promise, one sentence each."""
    problems = [
        f"{task_id} was accepted and is not in the log" for task_id in ledger.accepted.keys() - evidence.log.tasks
    ]
    announced = _announced(evidence.log)
    for task_id in evidence.log.tasks:
        problems += _one_outcome(task_id, evidence, announced[task_id], ledger)
        problems += _own_pictures(task_id, evidence, ledger, comparison)
    problems += [
        f"{task_id} has an outcome and was never requested" for task_id in announced.keys() - evidence.log.tasks
    ]
    problems += [f"{place} is {lag} records behind its end" for place, lag in evidence.log.behind.items() if lag]
    if evidence.log.dead_letters:
        problems.append(f"{evidence.log.dead_letters} records are dead letters")
    return problems + [f"not idle: {sample}" for sample in evidence.busy]


def _announced(log: TopicRecords) -> dict[str, set[str]]:
    announced: dict[str, set[str]] = defaultdict(set)
    for _, event in log.events:
        if isinstance(event, Outcome):
            announced[event.task_id].add(event.model_dump_json())
    return announced


def _one_outcome(task_id: str, evidence: Evidence, announced: set[str], ledger: Ledger) -> list[str]:
    stored = evidence.outcomes.get(task_id)
    if stored is None:
        return [f"{task_id} has no outcome.json; the API says {evidence.answers[task_id].status.get('status')}"]
    problems = []
    if len(announced) != 1:
        problems.append(f"{task_id} has {len(announced)} different outcomes on the events: {sorted(announced)}")
    elif announced != {stored.model_dump_json()}:
        problems.append(f"{task_id} was announced as {announced} and is stored as {stored}")
    answer = evidence.answers[task_id]
    if answer.problem is not None:
        problems.append(answer.problem)
    elif answer.status["status"] != stored.status or len(answer.pictures) != len(stored.images):
        problems.append(f"{task_id} is {stored.status} and the API says {answer.status}")
    if (end := ledger.ends.get(task_id, stored.status)) != stored.status:
        problems.append(f"{task_id} was reported as {end} and is {stored.status}")
    if stored.error is not None and stored.status == "failed" and stored.error.code not in MAY_FAIL:
        problems.append(f"{task_id} failed although its request was valid: {stored.error}")
    if stored.status not in ENDED or (stored.status == "completed") != bool(stored.images):
        problems.append(f"{task_id} is {stored.status} with {len(stored.images)} pictures")
    return problems


def _own_pictures(task_id: str, evidence: Evidence, ledger: Ledger, comparison: PictureComparison) -> list[str]:
    record = evidence.log.tasks[task_id][1].model_dump(mode="json")
    request = ledger.accepted.get(task_id, record)
    problems = []
    for index, picture in enumerate(evidence.answers[task_id].pictures):
        error = picture_error(picture, task_id, request) or comparison.differs(picture, task_id, index, record)
        problems += [error] if error else []
    return problems


@dataclass(frozen=True)
class Stall:
    """The longest time in which no task ended although one was waiting (Unix seconds)."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """Its duration."""
        return self.ended - self.began


def longest_stall(log: TopicRecords) -> Stall:
    """The longest time between two outcomes, or between a task that arrived at an empty queue and the next outcome."""
    first_end: dict[str, float] = {}
    for at, event in log.events:
        if isinstance(event, Outcome):
            first_end[event.task_id] = min(at, first_end.get(event.task_id, at))
    moments = sorted([(at, 1) for at, _ in log.tasks.values()] + [(at, -1) for at in first_end.values()])
    longest, waiting, since = Stall(0, 0), 0, 0.0
    for at, change in moments:
        if change < 0 and waiting > 0 and at - since > longest.seconds:
            longest = Stall(since, at)
        if change < 0 or waiting == 0:
            since = at
        waiting += change
    return longest


def starts_beyond_the_first(log: TopicRecords) -> Counter[str]:
    """The starts of tasks that had started before, by the reason why the earlier attempt did not finish."""
    reasons: dict[str, str] = {}
    counted: Counter[str] = Counter()
    for _, event in log.events:
        match event:
            case Started():
                if event.task_id in reasons:
                    counted[reasons[event.task_id]] += 1
                reasons[event.task_id] = OWNER_GONE
            case Released() if event.task_id in reasons:
                reasons[event.task_id] = event.code or "released"
    return counted


def outcomes_by_kind(evidence: Evidence) -> Counter[str]:
    """The number of tasks by status; failures by their code too."""
    kinds: Counter[str] = Counter()
    for outcome in evidence.outcomes.values():
        code = f" ({outcome.error.code})" if outcome.status == "failed" and outcome.error else ""
        kinds[outcome.status + code] += 1
    return kinds


def left_over(evidence: Evidence) -> int:
    """The number of pictures that no outcome names: their attempts died or lost the race before they deleted them."""
    named = {image.key for outcome in evidence.outcomes.values() for image in outcome.images}
    return len(set(evidence.stored) - named)
