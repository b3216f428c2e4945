"""Rules that are wrong, one at a time: mistakes that were made, or are easily made."""

from dataclasses import dataclass, replace

from tasks.events import Event, Outcome, Released, Started
from tasks.ownership import Action, Keep, Offer, Stop, Watch, next_action
from tasks.state import TaskState, apply
from tests.proofs.protocol.rules import FOR_EVER, Rules, ticks_of_lease
from tests.proofs.protocol.state import Faults

HOUR = 3600.0


@dataclass(frozen=True)
class Seed:
    """A wrong rule, what must go wrong for it to show, and the promise it breaks."""

    rules: Rules
    faults: Faults
    breaks: str


def _by_the_writers_clock(read_at: float, written_at: float) -> int:
    left = written_at - read_at
    return 0 if left < 0 else FOR_EVER if left else ticks_of_lease(0.0, 0.0)


def _a_release_of_any_attempt_counts(state: TaskState, event: Event) -> TaskState:
    if isinstance(event, Released) and state.status == "running":
        event = event.model_copy(update={"attempt": state.attempt, "owner": state.owner})
    return apply(state, event)


def _attempts_go_back(state: TaskState, event: Event) -> TaskState:
    if isinstance(event, Started) and not state.ended:
        return replace(state, status="running", attempt=event.attempt, tries=event.attempt, owner=event.owner)
    return apply(state, event)


def _a_lapsed_lease_forgets_the_cancel(state: TaskState) -> TaskState:
    return state if state.ended else replace(state, status="queued", owner="", delay=0.0, cancel_requested=False)


def _running_is_not_watched(state: TaskState, mine: int | None, me: str) -> Action:
    found = next_action(state, mine, me)
    return Keep() if isinstance(found, Watch) else found


def _running_is_anybodys(state: TaskState, mine: int | None, me: str) -> Action:
    found = next_action(state, mine, me)
    return Offer(0.0) if isinstance(found, Watch) else found


def _a_cancel_waits_for_the_runner(state: TaskState, mine: int | None, me: str) -> Action:
    found = next_action(replace(state, cancel_requested=False), mine, me)
    return Stop(found.error) if isinstance(found, Stop) else found


def _only_what_moves(event: Event, before: TaskState, after: TaskState, me: str) -> bool:
    return isinstance(event, Outcome) or after != before


def _not_for_a_vain_release(event: Event, before: TaskState, after: TaskState, me: str) -> bool:
    return after != before or (after.status == "running" and not isinstance(event, Released))


SEEDS: dict[str, Seed] = {
    "the offset is committed once the attempt is under way": Seed(
        Rules(closes=lambda state, under_way: state.ended or under_way), Faults(rebalances=1, errors=1), "P1"
    ),
    "the offset is committed when the task runs": Seed(
        Rules(closes=lambda state, under_way: state.status != "queued"), Faults(), "P1"
    ),
    "the outcome is announced before it is written": Seed(
        Rules(order=("pictures", "event", "outcome")), Faults(), "P1"
    ),
    "the outcome is announced before the pictures are stored": Seed(
        Rules(order=("outcome", "event", "pictures")), Faults(), "P2"
    ),
    "the outcome is written without If-None-Match": Seed(Rules(once=False), Faults(stops=1), "P1"),
    "all attempts give their pictures the same names": Seed(Rules(own_names=False), Faults(stops=1), "P2"),
    "the lease goes by the time that the writer put into the event": Seed(
        Rules(ticks_of_lease=_by_the_writers_clock), Faults(jumps=1, rebalances=1), "P4"
    ),
    "a release of a past attempt gives the task back": Seed(
        Rules(apply=_a_release_of_any_attempt_counts), Faults(stops=1), "past"
    ),
    "a late start moves an earlier attempt in": Seed(Rules(apply=_attempts_go_back), Faults(stops=1, errors=1), "past"),
    "a cancel is forgotten when the lease lapses": Seed(
        Rules(after_lease=_a_lapsed_lease_forgets_the_cancel), Faults(crashes=1, cancels=1), "cancel"
    ),
    "a queued task's cancel is ignored": Seed(
        Rules(next_action=_a_cancel_waits_for_the_runner), Faults(cancels=1), "cancel"
    ),
    "nobody watches the lease of a task that runs elsewhere": Seed(
        Rules(next_action=_running_is_not_watched), Faults(crashes=1), "never end"
    ),
    "a task that runs elsewhere is taken at once": Seed(
        Rules(next_action=_running_is_anybodys), Faults(rebalances=1), "P4"
    ),
    "only an event that moves the task renews its lease": Seed(
        Rules(needs_review=_only_what_moves), Faults(rebalances=1), "P4"
    ),
    "an owner starts tasks before it has read the events": Seed(Rules(reads_first=False), Faults(rebalances=1), "P4"),
    "a second attempt begins without a look into the store": Seed(
        Rules(may_have_ended=lambda state: False), Faults(crashes=1), "P4"
    ),
    "an attempt begins although the partition went while it looked": Seed(
        Rules(may_begin=lambda state, number: True), Faults(crashes=1, rebalances=1), "P4"
    ),
    "the end of an attempt is no reason to look at the task again": Seed(
        Rules(looks_after_attempt=lambda release_seen: False), Faults(errors=1), "never end"
    ),
    "an owner goes on before it has read that it gave the task back": Seed(
        Rules(looks_after_attempt=lambda release_seen: True), Faults(errors=1, rebalances=1), "P4"
    ),
    "a release that moves nothing is no reason to look at the task again": Seed(
        Rules(needs_review=_not_for_a_vain_release), Faults(stops=1, crashes=1), "never end"
    ),
    "one that was stopped takes what seems to have lapsed": Seed(
        Rules(looks_last=False), Faults(stops=1, rebalances=1), "P4"
    ),
}
