"""The order of service: fair shares, exact positions, and cancels that change no other task's place."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.fair_queue import FairQueue, Flow

WEIGHTS = {"online": 4.0, "batch": 1.0}
FLOWS = [Flow(lane, user) for lane in WEIGHTS for user in "abc"]
COSTS = st.floats(0.01, 100.0)
PUSHES = st.lists(st.tuples(st.sampled_from(FLOWS), COSTS), max_size=25)


def filled(pushes: list[tuple[Flow, float]], served: int = 0) -> FairQueue:
    queue = FairQueue(WEIGHTS)
    for number, (flow, cost) in enumerate(pushes):
        queue.push(str(number), flow, cost)
    for _ in range(served):
        queue.pop()
    return queue


def order(queue: FairQueue) -> list[str]:
    """The order of service, found by serving a copy of the queue."""
    queue, served = copy.deepcopy(queue), []
    while entry := queue.pop():
        served.append(entry.task_id)
    return served


@settings(max_examples=60, deadline=None)
@given(PUSHES, st.integers(0, 10), PUSHES)
def test_the_position_is_the_number_of_tasks_really_served_before_it(
    first: list[tuple[Flow, float]], served: int, later: list[tuple[Flow, float]]
):
    queue = filled(first, served)
    for number, (flow, cost) in enumerate(later):
        queue.push(f"later {number}", flow, cost)
    real = order(queue)
    assert [queue.position(task_id) for task_id in real] == list(range(len(queue)))
    assert [entry.task_id for entry in queue] == real
    assert queue.position("never queued") is None


@settings(max_examples=60, deadline=None)
@given(st.lists(COSTS, min_size=2, max_size=30), st.data())
def test_a_new_user_is_served_before_the_second_next_task_of_a_flood(flood: list[float], data: st.DataObject):
    queue = filled([(Flow("online", "flood"), cost) for cost in flood], data.draw(st.integers(0, len(flood) - 2)))
    nexts = order(queue)
    lane = data.draw(st.sampled_from(sorted(WEIGHTS)))
    queue.push("newcomer", Flow(lane, "newcomer"), data.draw(COSTS))
    position = queue.position("newcomer")
    assert position is not None and position <= 1
    assert order(queue).index("newcomer") < order(queue).index(nexts[1])


@settings(max_examples=60, deadline=None)
@given(st.lists(COSTS, min_size=20, max_size=20), st.lists(COSTS, min_size=20, max_size=20), st.floats(0.1, 10.0))
def test_lanes_that_are_both_full_share_by_their_weights_within_one_task_each(
    left: list[float], right: list[float], weight: float
):
    weights = {"left": weight, "right": 1.0}
    queue = FairQueue(weights)
    for number in range(20):
        queue.push(f"left {number}", Flow("left", "a"), left[number])
        queue.push(f"right {number}", Flow("right", "b"), right[number])
    got, waiting = {"left": 0.0, "right": 0.0}, {"left": 20, "right": 20}
    most = max(left) / weight + max(right)
    while all(waiting.values()):
        entry = queue.pop()
        assert entry is not None
        got[entry.flow.lane] += entry.cost
        waiting[entry.flow.lane] -= 1
        assert abs(got["left"] / weight - got["right"]) <= most * (1 + 1e-9)


def test_a_lane_with_four_times_the_weight_gets_four_of_five_equal_tasks():
    queue = filled([(Flow(lane, "a"), 1.0) for _ in range(100) for lane in WEIGHTS])
    lanes = [entry.flow.lane for entry in (queue.pop() for _ in range(50)) if entry]
    assert lanes.count("online") == 40


@settings(max_examples=40, deadline=None)
@given(PUSHES.filter(len), st.data())
def test_no_task_starves_however_many_the_other_flows_queue(pushes: list[tuple[Flow, float]], data: st.DataObject):
    queue = filled(pushes)
    waiting = data.draw(st.sampled_from(order(queue)))
    others = [flow for flow in FLOWS if flow != pushes[int(waiting)][0]]
    # Another flow is served before it until its own finish tag is larger: all its queued tasks and one more each second.
    most_turns = len(pushes) + len(others) * (1 + int(sum(cost for _, cost in pushes) * max(WEIGHTS.values())))
    for turn in range(most_turns + 1):
        entry = queue.pop()
        if entry is not None and entry.task_id == waiting:
            return
        queue.push(f"more {turn}", others[turn % len(others)], 1.0)
    pytest.fail("it was never served")


@settings(max_examples=60, deadline=None)
@given(PUSHES.filter(len), st.data())
def test_a_cancel_anywhere_keeps_the_order_of_the_others(pushes: list[tuple[Flow, float]], data: st.DataObject):
    queue = filled(pushes)
    before = order(queue)
    canceled = data.draw(st.sampled_from(before))
    queue.remove(canceled)
    assert order(queue) == [task_id for task_id in before if task_id != canceled]
    assert queue.position(canceled) is None and canceled not in queue
    assert queue.remove(canceled) is None


@settings(max_examples=60, deadline=None)
@given(PUSHES.filter(len), st.data())
def test_a_restored_task_has_its_old_place(pushes: list[tuple[Flow, float]], data: st.DataObject):
    queue = filled(pushes)
    before = order(queue)
    served = [queue.pop() for _ in range(data.draw(st.integers(1, len(before))))]
    for entry in data.draw(st.permutations(served)):
        assert entry is not None
        queue.restore(entry)
        queue.restore(entry)
    assert order(queue) == before


def test_a_restored_task_is_before_the_tasks_that_arrived_meanwhile():
    queue = filled([(FLOWS[0], 1.0), (FLOWS[0], 1.0)])
    entry = queue.pop()
    assert entry is not None
    queue.push("newcomer", FLOWS[1], 1.0)
    queue.restore(entry)
    assert order(queue) == ["0", "newcomer", "1"]


def test_queueing_twice_keeps_the_first_place():
    queue = filled([(FLOWS[0], 1.0), (FLOWS[1], 1.0)])
    queue.push("0", FLOWS[2], 99.0)
    assert order(queue) == ["0", "1"]
    assert len(queue) == 2


def test_a_flow_that_was_idle_gets_its_share_from_now_on_and_nothing_for_the_past():
    queue = filled([(FLOWS[0], 1.0)] * 11, served=10)
    for number in range(3):
        queue.push(f"busy {number}", FLOWS[0], 1.0)
        queue.push(f"idle {number}", FLOWS[1], 1.0)
    assert order(queue) == ["idle 0", "10", "idle 1", "busy 0", "idle 2", "busy 1", "busy 2"]


def test_an_empty_queue_forgets_the_shares_of_every_flow():
    queue = filled([(FLOWS[0], 100.0)] * 3, served=1)
    queue.remove("1")
    queue.remove("2")
    queue.push("the canceler", FLOWS[0], 1.0)
    queue.push("another", FLOWS[1], 1.0)
    assert order(queue) == ["the canceler", "another"]


def test_a_served_task_leaves_the_queue_and_the_wait_is_that_of_the_tasks_before():
    queue = filled([(FLOWS[0], 2.0)] * 3)
    assert queue.wait_estimate("2") == pytest.approx(4.0)
    assert queue.serve("0") is not None
    assert queue.wait_estimate("2") == pytest.approx(2.0)
    assert queue.wait_estimate("0") is None


def test_inactive_flows_are_forgotten_though_the_queue_is_never_empty():
    queue = filled([(FLOWS[0], 1.0)])
    for number in range(5000):
        for part in "ab":
            queue.push(f"{number}{part}", Flow("online", str(number)), 1.0)
        assert queue.pop() and queue.pop() and len(queue)
    assert len(queue._finish) < 2500
