"""The queues follow from the events of the tasks alone, so gateways and owners compute the same positions."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.queues import Queues, Work
from tasks.state import TaskState
from tasks.task import ImageParams, Task
from tests.support.world import card

PARAMS = ImageParams(
    width=64,
    height=64,
    steps=10,
    guidance_scale=5.0,
    seed=1,
    num_images=1,
    format="png",
    scheduler="euler",
)
QUEUED, RUNNING, DONE = (
    TaskState(),
    TaskState("running", attempt=1),
    TaskState("completed"),
)


def task(
    task_id: str,
    user: str = "a",
    model: str = "sd",
    lane: str = "online",
    at: float = 0.0,
) -> Task:
    """A task with a cost of two seconds."""
    return Task(
        task_id=task_id,
        model_name=model,
        prompt="x",
        image_params=PARAMS,
        user_id=user,
        topic=lane,
        created_at=at,
        cost=2.0,
    )


def filled(*ids: str) -> Queues:
    """Queues with these tasks of one user."""
    queues = Queues({"online": 1.0})
    for task_id in ids:
        queues.add(task(task_id), 0, QUEUED)
    return queues


def test_a_task_moves_up_as_those_before_it_are_served() -> None:
    queues = filled("1", "2", "3")
    assert queues.position("3") == 2
    queues.move("1", RUNNING)
    assert queues.position("3") == 1
    assert queues.position("1") is None


def test_a_requeued_task_has_its_old_position() -> None:
    queues = filled("1", "2")
    queues.move("1", RUNNING)
    queues.move("1", QUEUED)
    assert (queues.position("1"), queues.position("2")) == (0, 1)


def test_a_canceled_task_leaves_the_queue_at_once() -> None:
    queues = filled("1", "2", "3")
    queues.move("2", TaskState("canceled"))
    assert queues.position("2") is None
    assert queues.position("3") == 1
    assert len(queues) == 2


def test_a_task_that_already_runs_is_known_but_not_queued() -> None:
    queues = Queues({})
    queues.add(task("1"), 0, RUNNING)
    queues.add(task("2"), 0, DONE)
    assert len(queues) == 1
    assert queues.position("1") is None


def test_models_do_not_wait_for_each_other() -> None:
    queues = filled("1", "2")
    queues.add(task("3", model="flux"), 1, QUEUED)
    assert queues.position("3") == 0
    assert set(queues.models()) == {"sd", "flux"}


def test_forgetting_a_partition_removes_its_tasks_and_no_others() -> None:
    queues = filled("1", "2")
    queues.add(task("3", user="b"), 1, QUEUED)
    assert set(queues.forget([0])) == {"1", "2"}
    assert (len(queues), queues.position("3")) == (1, 0)


def test_depth_and_oldest_age_are_reported_for_each_model_and_lane() -> None:
    queues = Queues({})
    queues.add(task("1", at=70.0), 0, QUEUED)
    queues.add(task("2", at=90.0), 0, QUEUED)
    queues.add(task("3", lane="batch", at=95.0), 0, QUEUED)
    assert set(queues.depths(lambda: 100.0)) == {
        ("sd", "online", 2, 30.0),
        ("sd", "batch", 1, 5.0),
    }


def test_the_estimate_shares_the_tasks_ahead_among_the_runners() -> None:
    queues = filled("1", "2", "3")
    third = task("3")
    assert queues.estimate(third, QUEUED, card()) == 6.0
    assert queues.estimate(third, QUEUED, card(runners=2)) == 4.0
    assert queues.estimate(third, TaskState(delay=5.0), card()) == 11.0
    assert queues.estimate(third, TaskState("running", step=5, steps=10), card()) == 1.0
    assert queues.estimate(third, DONE, card()) is None
    assert queues.estimate(third, QUEUED, None) is None


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["online", "batch"])),
        max_size=15,
    )
)
def test_positions_are_the_order_of_service(submitted: list[tuple[str, str]]) -> None:
    queues = Queues({"online": 4.0, "batch": 1.0})
    for number, (user, lane) in enumerate(submitted):
        queues.add(task(str(number), user, lane=lane), 0, QUEUED)
    positions = {str(number): queues.position(str(number)) for number in range(len(submitted))}
    served = []
    while entry := queues.queue("sd").peek():
        queues.move(entry.task_id, RUNNING)
        served.append(entry.task_id)
    assert served == sorted(positions, key=lambda task_id: positions[task_id] or 0)


IDS = "123456"
_steps = st.tuples(
    st.sampled_from(["expect", "unexpect", "add", "move", "forget", "remove"]),
    st.sampled_from(IDS),
    st.sampled_from([QUEUED, RUNNING, DONE]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_steps, max_size=40))
def test_the_load_equals_a_count_of_every_task(steps: list[tuple[str, str, TaskState]]) -> None:
    queues, expected = Queues({}), set[str]()
    tasks = {i: task(i, user="ab"[int(i) % 2], model=("sd", "flux")[int(i) // 4]) for i in IDS}
    seen = set[str]()
    for what, task_id, state in steps:
        changed = tasks[task_id]
        match what:
            case "expect" if task_id not in seen:
                queues.expect(changed)
                expected.add(task_id)
            case "unexpect":
                queues.unexpect(task_id)
                expected.discard(task_id)
            case "add":
                queues.add(changed, int(task_id) % 3, state)
                seen.add(task_id)
                expected.discard(task_id)
            case "move":
                queues.move(task_id, state)
            case "forget":
                queues.forget([int(task_id) % 3])
            case "remove":
                queues.queue(changed.model_name).remove(task_id)
    waiting = [tasks[i] for i in IDS if any(i in queues.queue(model) for model in ("sd", "flux"))]
    for user in "ab":
        counted = waiting + [tasks[i] for i in expected]
        assert queues.load(user) == (sum(each.user_id == user for each in counted), len(counted))


def test_the_work_of_a_model_is_its_queued_and_running_tasks() -> None:
    queues = filled("1", "2", "3")
    queues.add(task("other", model="flux"), 0, QUEUED)
    one = 64 * 64 * 10
    assert queues.work("sd") == Work(queued=3, running=0, pixel_steps=3 * one)
    queues.move("1", RUNNING)
    assert queues.work("sd") == Work(queued=2, running=1, pixel_steps=3 * one)
    queues.move("1", QUEUED)
    assert queues.work("sd") == Work(queued=3, running=0, pixel_steps=3 * one)
    for task_id in "123":
        queues.move(task_id, DONE)
        queues.move(task_id, DONE)
    assert queues.work("sd") == queues.work("unheard of") == Work()
    assert queues.work("flux") == Work(queued=1, running=0, pixel_steps=one)


def test_tasks_of_forgotten_partitions_are_no_work() -> None:
    queues = Queues({})
    for partition in (0, 1):
        queues.add(task(str(partition)), partition, QUEUED)
    queues.move("1", RUNNING)
    assert queues.forget({1}) == ["1"]
    assert queues.work("sd") == Work(queued=1, running=0, pixel_steps=64 * 64 * 10)
