"""The report of a soak: a table for people, and the same figures as JSON."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.proofs.soak.evidence import Evidence
from tests.proofs.soak.judge import left_over, longest_stall, outcomes_by_kind, starts_beyond_the_first
from tests.proofs.soak.ledger import Ledger
from tests.proofs.soak.pictures import PictureComparison
from tests.proofs.soak.schedule import KILLS
from tests.proofs.soak.service import SoakedService


def figures(
    service: SoakedService, ledger: Ledger, evidence: Evidence, comparison: PictureComparison, drain_seconds: float
) -> dict[str, Any]:
    """Every figure of the report, by its label."""
    stall = longest_stall(evidence.log)
    kinds: dict[str, Counter[str]] = {}
    for (part, kind), count in sorted(service.done.items()):
        kinds.setdefault(part, Counter())[kind] = count
    repeated = starts_beyond_the_first(evidence.log)
    return {
        "tasks in the log": len(evidence.log.tasks),
        "tasks accepted, as users know": len(ledger.accepted),
        "tasks in the log whose submit was never answered": len(evidence.log.tasks.keys() - ledger.accepted.keys()),
        "tasks by outcome": dict(outcomes_by_kind(evidence).most_common()),
        "submits refused or unanswered, then tried again": dict(ledger.refused.most_common()),
        "submits never answered and never tried again": len(ledger.unknown),
        "other requests refused or unanswered": dict(ledger.unanswered.most_common()),
        "what users did": dict(ledger.done.most_common()),
        "kill -9 in all": sum(count for (_, kind), count in service.done.items() if kind in KILLS),
        "faults by part": {part: dict(count) for part, count in kinds.items()},
        "starts beyond the first": {"in all": repeated.total(), **dict(repeated.most_common())},
        "pictures checked": sum(len(answer.pictures) for answer in evidence.answers.values()),
        "pictures held against one of the same request": comparison.compared,
        "most a pixel differed between two, of 255": comparison.worst,
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
            text = ", ".join(f"{n} {v}" for n, v in value.items()) if isinstance(value, Mapping) else value
            lines.append(f"| {what}: {name} | {text} |")
    return "\n".join(lines)
