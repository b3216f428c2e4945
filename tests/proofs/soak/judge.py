"""Was a promise broken, and what did it cost? Pure functions of what is left."""

from collections import Counter, defaultdict
from dataclasses import dataclass

from tasks.events import Outcome, Released, Started
from tests.proofs.soak.evidence import Evidence, TopicRecords
from tests.proofs.soak.ledger import ENDED, Ledger
from tests.proofs.soak.pictures import Looks, mistake

LEASE = "its owner was gone"
MAY_FAIL = frozenset({"runner_lost"})
"""All a sound request may fail with: its runner was killed at every one of its tries."""


def broken(evidence: Evidence, ledger: Ledger, looks: Looks) -> list[str]:
    """Every broken promise, a sentence each."""
    found = [f"{task_id} was accepted and is not in the log" for task_id in ledger.accepted.keys() - evidence.log.tasks]
    announced = _announced(evidence.log)
    for task_id in evidence.log.tasks:
        found += _one_outcome(task_id, evidence, announced[task_id], ledger)
        found += _own_pictures(task_id, evidence, ledger, looks)
    found += [f"{task_id} has an outcome and was never asked for" for task_id in announced.keys() - evidence.log.tasks]
    found += [f"{place} is {lag} records behind its end" for place, lag in evidence.log.behind.items() if lag]
    if evidence.log.dead_letters:
        found.append(f"{evidence.log.dead_letters} records are with the dead letters")
    return found + [f"not idle: {one}" for one in evidence.busy]


def _announced(log: TopicRecords) -> dict[str, set[str]]:
    announced: dict[str, set[str]] = defaultdict(set)
    for _, event in log.events:
        if isinstance(event, Outcome):
            announced[event.task_id].add(event.model_dump_json())
    return announced


def _one_outcome(task_id: str, evidence: Evidence, announced: set[str], ledger: Ledger) -> list[str]:
    stands = evidence.outcomes.get(task_id)
    if stands is None:
        return [f"{task_id} has no outcome.json; the API says {evidence.told[task_id].status.get('status')}"]
    found = []
    if len(announced) != 1:
        found.append(f"{task_id} has {len(announced)} different outcomes on the events: {sorted(announced)}")
    elif announced != {stands.model_dump_json()}:
        found.append(f"{task_id} was announced as {announced} and stands as {stands}")
    told = evidence.told[task_id]
    if told.problem is not None:
        found.append(told.problem)
    elif told.status["status"] != stands.status or len(told.pictures) != len(stands.images):
        found.append(f"{task_id} is {stands.status} and the API says {told.status}")
    if (before := ledger.told.get(task_id, stands.status)) != stands.status:
        found.append(f"{task_id} was told as {before} and is {stands.status}")
    if stands.error is not None and stands.status == "failed" and stands.error.code not in MAY_FAIL:
        found.append(f"{task_id} failed for no fault of its own: {stands.error}")
    if stands.status not in ENDED or (stands.status == "completed") != bool(stands.images):
        found.append(f"{task_id} is {stands.status} with {len(stands.images)} pictures")
    return found


def _own_pictures(task_id: str, evidence: Evidence, ledger: Ledger, looks: Looks) -> list[str]:
    record = evidence.log.tasks[task_id][1].model_dump(mode="json")
    asked = ledger.accepted.get(task_id, record)
    found = []
    for index, picture in enumerate(evidence.told[task_id].pictures):
        wrong = mistake(picture, task_id, asked) or looks.differs(picture, task_id, index, record)
        found += [wrong] if wrong else []
    return found


@dataclass(frozen=True)
class Stall:
    """The longest time in which nothing ended although something was asked for (Unix seconds)."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.ended - self.began


def longest_stall(log: TopicRecords) -> Stall:
    """Between two outcomes, or between a task that came when there was none and the next outcome."""
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
    """Every start of a task that had been started before, by why the one before came to nothing."""
    why: dict[str, str] = {}
    counted: Counter[str] = Counter()
    for _, event in log.events:
        match event:
            case Started():
                if event.task_id in why:
                    counted[why[event.task_id]] += 1
                why[event.task_id] = LEASE
            case Released() if event.task_id in why:
                why[event.task_id] = event.code or "given back"
    return counted


def outcomes_by_kind(evidence: Evidence) -> Counter[str]:
    """How many tasks ended how, a failure with its code."""
    kinds: Counter[str] = Counter()
    for outcome in evidence.outcomes.values():
        code = f" ({outcome.error.code})" if outcome.status == "failed" and outcome.error else ""
        kinds[outcome.status + code] += 1
    return kinds


def left_over(evidence: Evidence) -> int:
    """Pictures in the store that no outcome names: their attempt died, or lost the race, before it could tidy up."""
    named = {image.key for outcome in evidence.outcomes.values() for image in outcome.images}
    return len(set(evidence.stored) - named)
