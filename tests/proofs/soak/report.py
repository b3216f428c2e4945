"""What a soak says when it is over: one table for people, the same figures as JSON."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.proofs.soak.evidence import Evidence
from tests.proofs.soak.judge import left_over, longest_stall, outcomes_by_kind, starts_beyond_the_first
from tests.proofs.soak.ledger import Ledger
from tests.proofs.soak.pictures import Looks
from tests.proofs.soak.schedule import KILLS
from tests.proofs.soak.service import SoakedService


def figures(
    service: SoakedService, ledger: Ledger, evidence: Evidence, looks: Looks, drain_seconds: float
) -> dict[str, Any]:
    """Everything counted."""
    stall = longest_stall(evidence.log)
    kinds: dict[str, Counter[str]] = {}
    for (part, kind), count in sorted(service.did.items()):
        kinds.setdefault(part, Counter())[kind] = count
    again = starts_beyond_the_first(evidence.log)
    return {
        "tasks in the log": len(evidence.log.tasks),
        "tasks accepted, as users know": len(ledger.accepted),
        "tasks in the log whose submit was never answered": len(evidence.log.tasks.keys() - ledger.accepted.keys()),
        "tasks by outcome": dict(outcomes_by_kind(evidence).most_common()),
        "submits refused or unanswered, then tried again": dict(ledger.refused.most_common()),
        "submits never answered and never tried again": len(ledger.unknown),
        "other requests refused or unanswered": dict(ledger.unanswered.most_common()),
        "what users did": dict(ledger.did.most_common()),
        "kill -9 in all": sum(count for (_, kind), count in service.did.items() if kind in KILLS),
        "faults by part": {part: dict(count) for part, count in kinds.items()},
        "starts beyond the first": {"in all": again.total(), **dict(again.most_common())},
        "pictures checked": sum(len(told.pictures) for told in evidence.told.values()),
        "pictures held against one of the same request": looks.compared,
        "most a pixel differed between two, of 255": looks.worst,
        "pictures in the store that no outcome names": left_over(evidence),
        "longest stall, seconds": round(stall.seconds, 1),
        "it began, seconds after the first fault was due": round(stall.began - service.began_at, 1),
        "from the last part back to all drained, seconds": round(drain_seconds, 1),
    }


def table(figures: Mapping[str, Any]) -> str:
    """The figures as a markdown table."""
    lines = ["| what | figure |", "|---|---|"]
    for what, figure in figures.items():
        if not isinstance(figure, Mapping):
            lines.append(f"| {what} | {figure} |")
            continue
        for name, value in figure.items() or [("none", "")]:
            said = ", ".join(f"{n} {v}" for n, v in value.items()) if isinstance(value, Mapping) else value
            lines.append(f"| {what}: {name} | {said} |")
    return "\n".join(lines)
