"""Wrong rules, one at a time: bugs that were made or are easily made."""

from dataclasses import dataclass, replace

from tasks.events import Event, Outcome, Released, Started
from tasks.ownership import Action, Keep, Offer, Stop, Watch, next_action
from tasks.state import TaskState, apply
from tests.proofs.protocol.rules import FOR_EVER, Rules, ticks_of_lease
from tests.proofs.protocol.state import Faults

HOUR = 3600.0


@dataclass(frozen=True)
class Seed:
    """A wrong rule, the faults that reveal it, and the promise that it breaks."""

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


def _an_expired_lease_forgets_the_cancel(state: TaskState) -> TaskState:
    return state if state.ended else replace(state, status="queued", owner="", delay=0.0, cancel_requested=False)


def _running_is_not_watched(state: TaskState, mine: int | None, me: str) -> Action:
    action = next_action(state, mine, me)
    return Keep() if isinstance(action, Watch) else action


def _running_is_offered(state: TaskState, mine: int | None, me: str) -> Action:
    action = next_action(state, mine, me)
    return Offer(0.0) if isinstance(action, Watch) else action


def _a_cancel_waits_for_the_runner(state: TaskState, mine: int | None, me: str) -> Action:
    action = next_action(replace(state, cancel_requested=False), mine, me)
    return Stop(action.error) if isinstance(action, Stop) else action


def _only_changes(event: Event, before: TaskState, after: TaskState, me: str) -> bool:
    return isinstance(event, Outcome) or after != before


def _not_for_an_ineffective_release(event: Event, before: TaskState, after: TaskState, me: str) -> bool:
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
    "the outcome is written without If-None-Match": Seed(Rules(conditional_write=False), Faults(stops=1), "P1"),
    "all attempts give their pictures the same names": Seed(Rules(unique_names=False), Faults(stops=1), "P2"),
    "the lease goes by the time that the writer put into the event": Seed(
        Rules(ticks_of_lease=_by_the_writers_clock), Faults(jumps=1, rebalances=1), "P4"
    ),
    "a release of a past attempt requeues the task": Seed(
        Rules(apply=_a_release_of_any_attempt_counts), Faults(stops=1), "past"
    ),
    "a late Started event sets an earlier attempt": Seed(
        Rules(apply=_attempts_go_back), Faults(stops=1, errors=1), "past"
    ),
    "a cancel is forgotten when the lease expires": Seed(
        Rules(after_lease=_an_expired_lease_forgets_the_cancel), Faults(crashes=1, cancels=1), "cancel"
    ),
    "a queued task's cancel is ignored": Seed(
        Rules(next_action=_a_cancel_waits_for_the_runner), Faults(cancels=1), "cancel"
    ),
    "the lease of a task that runs elsewhere is not watched": Seed(
        Rules(next_action=_running_is_not_watched), Faults(crashes=1), "never end"
    ),
    "a task that runs elsewhere is taken at once": Seed(
        Rules(next_action=_running_is_offered), Faults(rebalances=1), "P4"
    ),
    "only an event that changes the state renews the lease": Seed(
        Rules(needs_review=_only_changes), Faults(rebalances=1), "P4"
    ),
    "an owner starts tasks before it has read the events": Seed(Rules(reads_first=False), Faults(rebalances=1), "P4"),
    "a second attempt begins without reading the store": Seed(
        Rules(may_have_ended=lambda state: False), Faults(crashes=1), "P4"
    ),
    "an attempt begins although the partition was lost while it read the store": Seed(
        Rules(may_begin=lambda state, number: True), Faults(crashes=1, rebalances=1), "P4"
    ),
    "the end of an attempt is not reviewed": Seed(
        Rules(reviews_after_attempt=lambda release_seen: False), Faults(errors=1), "never end"
    ),
    "an owner starts again before it has read its own release": Seed(
        Rules(reviews_after_attempt=lambda release_seen: True), Faults(errors=1, rebalances=1), "P4"
    ),
    "a release that changes nothing is not reviewed": Seed(
        Rules(needs_review=_not_for_an_ineffective_release), Faults(stops=1, crashes=1), "never end"
    ),
    "an owner that was stopped takes a task whose lease seems to have expired": Seed(
        Rules(reads_after_stop=False), Faults(stops=1, rebalances=1), "P4"
    ),
}
