"""The view: it depends on the records alone, not on their batches or repeats, and no task ever goes back."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.view import EventChange, TaskChange, TaskView, View
from config.settings import Settings
from tasks.events import CancelRequested, Event, Outcome, Progress, Released, Started
from tasks.log import Place, Record
from tasks.names import find_model
from tasks.reading import CardRead, Unreadable
from tasks.task import Task, TaskRecord
from tests.support.world import card

LANES = Settings().lane_names
IDS = [f"{n:032x}" for n in range(4)]
CARD = Record(
    "card",
    Place("models", 0, 0),
    1.0,
    "sd-mini",
    card(aliases=("sd",)).model_dump_json().encode(),
)


def body(task_id: str, **more: object) -> bytes:
    """The value of a task record."""
    fields = {
        "task_id": task_id,
        "model_name": "sd-mini",
        "prompt": "a red circle",
    } | more
    return TaskRecord.model_validate(fields).model_dump_json().encode()


def outcome(task_id: str, status: str = "completed") -> Outcome:
    """An outcome of any task."""
    view = View("", LANES)
    view.apply([CARD])
    (read,) = view.apply([on_lane(0, body(task_id))])
    assert isinstance(read, TaskChange)
    return Outcome(task_id=task_id, at=9.0, status=status, tries=1, task=read.task)  # type: ignore[arg-type]


def on_lane(offset: int, value: bytes, lane: str = LANES[0], partition: int = 0) -> Record:
    """A lane record."""
    return Record("task", Place(lane, partition, offset), 100.0 + offset, "sd-mini", value)


def on_events(offset: int, event: Event | bytes, partition: int = 0) -> Record:
    """An events record."""
    value = event if isinstance(event, bytes) else event.model_dump_json().encode()
    return Record("event", Place("events", partition, offset), 200.0 + offset, "", value)


@pytest.fixture
def view() -> View:
    """A view that knows the model."""
    made = View("", LANES)
    made.apply([CARD])
    return made


ENDS = {
    task_id: {status: outcome(task_id, status) for status in ("completed", "failed", "canceled")} for task_id in IDS
}
EVENTS = st.builds(
    lambda make, task_id, attempt: make(task_id, attempt),
    st.sampled_from(
        [
            lambda i, n: Started(task_id=i, at=1.0, attempt=n, owner="a"),
            lambda i, n: Progress(task_id=i, at=1.0, attempt=n, owner="a", step=n, steps=9),
            lambda i, n: Released(task_id=i, at=1.0, attempt=n, owner="a", delay=2.0),
            lambda i, n: CancelRequested(task_id=i, at=1.0),
            lambda i, n: ENDS[i]["completed"],
            lambda i, n: ENDS[i]["failed"],
            lambda i, n: ENDS[i]["canceled"],
        ]
    ),
    st.sampled_from(IDS),
    st.integers(1, 3),
)


def as_written(events: list[Event]) -> list[Event]:
    """The events that a log can hold: an owner writes Started before Progress and Released of the same attempt, and
    Kafka keeps the order of one producer within a partition."""
    return [
        event
        for n, event in enumerate(events)
        if not isinstance(event, Progress | Released)
        or not any(
            isinstance(later, Started) and (later.task_id, later.attempt) == (event.task_id, event.attempt)
            for later in events[n + 1 :]
        )
        or any(
            isinstance(before, Started) and (before.task_id, before.attempt) == (event.task_id, event.attempt)
            for before in events[:n]
        )
    ]


def known(view: View) -> dict[str, object]:
    """Everything that the view holds about every task, except the time of its last update."""
    entries = {task_id: view.get(task_id) for task_id in IDS}
    return {
        task_id: entry
        and (
            entry.task,
            entry.place,
            entry.state,
            entry.outcome,
            entry.refusal and entry.refusal.problem(),
        )
        for task_id, entry in entries.items()
    }


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_view_rebuilt_from_the_log_equals_one_that_read_it_as_it_grew(
    data: st.DataObject,
) -> None:
    ids = data.draw(st.lists(st.sampled_from(IDS), max_size=8))
    tasks = [on_lane(n, body(task_id, model_name="sd-mini" if n % 3 else "gone")) for n, task_id in enumerate(ids)]
    events = [on_events(n, event) for n, event in enumerate(as_written(data.draw(st.lists(EVENTS, max_size=20))))]
    turns = data.draw(st.permutations([True] * len(tasks) + [False] * len(events)))
    lane, event = iter(tasks), iter(events)
    mixed = [next(lane) if turn else next(event) for turn in turns]
    lived, rebuilt = View("", LANES), View("", LANES)
    lived.apply([CARD])
    while mixed:
        size = data.draw(st.integers(1, 5))
        lived.apply(mixed[:size])
        # After a crash the log is read again from the committed offsets, so some records come twice.
        if data.draw(st.booleans()):
            lived.apply(mixed[:size])
        mixed = mixed[size:]
    rebuilt.apply([CARD, *events, *tasks])
    assert known(lived) == known(rebuilt)
    lived.close()
    rebuilt.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENTS, max_size=20), st.sampled_from(["completed", "failed", "canceled"]))
def test_no_late_or_repeated_event_changes_an_ended_task(late: list[Event], status: str) -> None:
    view = View("", LANES)
    view.apply([CARD, *(on_lane(n, body(i)) for n, i in enumerate(IDS))])
    view.apply([on_events(n, ENDS[i][status]) for n, i in enumerate(IDS)])
    before = known(view)
    changes = view.apply([on_events(10 + n, event) for n, event in enumerate(late)])
    assert known(view) == before
    assert all(isinstance(change, EventChange) and change.before == change.after for change in changes)
    view.close()


def test_events_read_before_their_task_are_joined_to_it(view: View) -> None:
    view.apply([on_events(0, Started(task_id=IDS[0], at=1.0, attempt=1, owner="a"))])
    only_events = view.get(IDS[0])
    assert only_events is not None and only_events.task is None
    (read,) = view.apply([on_lane(0, body(IDS[0]))])
    assert isinstance(read, TaskChange) and read.first and read.state.status == "running"


def test_the_first_record_of_a_task_id_is_kept(view: View) -> None:
    view.apply([on_lane(0, body(IDS[0]))])
    (again,) = view.apply([on_lane(1, body(IDS[0], prompt="another"))])
    assert isinstance(again, TaskChange) and not again.first
    kept = view.get(IDS[0])
    assert kept is not None and kept.task is not None and kept.task.prompt == "a red circle"
    assert kept.place == Place(LANES[0], 0, 0)


def test_a_task_that_names_an_alias_belongs_to_the_model(view: View) -> None:
    (read,) = view.apply([on_lane(0, body(IDS[0], model_name="sd"))])
    assert isinstance(read, TaskChange)
    assert (read.task.model_name, read.task.alias) == ("sd-mini", "sd")


def test_a_task_that_cannot_be_done_keeps_its_refusal(view: View) -> None:
    (read,) = view.apply([on_lane(0, body(IDS[0], loras=["nothing"]))])
    assert isinstance(read, TaskChange) and read.refusal is not None and read.refusal.code() == "unknown_lora"
    kept = view.get(IDS[0])
    assert kept is not None and kept.refusal is not None and kept.refusal.code() == "unknown_lora"


@pytest.mark.parametrize("value", [b"", b"\xff", b"[]", b"{}", b'{"task_id": "short"}', b'{"kind": 1}'])
def test_an_unreadable_record_is_reported_and_the_others_are_applied(view: View, value: bytes) -> None:
    bad = [on_lane(0, value), on_events(0, value)]
    first, second, third = view.apply([*bad, on_lane(1, body(IDS[0]))])
    assert isinstance(first, Unreadable) and isinstance(second, Unreadable) and isinstance(third, TaskChange)
    assert first.reason and first.record is bad[0]


def test_an_event_of_a_kind_of_a_newer_version_is_skipped(view: View) -> None:
    assert view.apply([on_events(0, b'{"kind": "praised", "task_id": "x"}')]) == []
    assert view.offsets()["events", 0] == 1


def test_a_view_continues_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "view.db"
    first = View(path, LANES)
    first.apply([CARD, on_lane(0, body(IDS[0])), on_lane(4, body(IDS[1]), LANES[1], 2)])
    seen, offsets = known(first), first.offsets()
    first.close()
    again = View(path, LANES)
    assert known(again) == seen
    assert again.offsets() == offsets == {("models", 0): 1, (LANES[0], 0): 1, (LANES[1], 2): 5}
    assert again.models().keys() == {"sd-mini"}
    assert [entry.task_id for entry in again.unfinished(2)] == [IDS[1]]
    again.close()


@pytest.mark.parametrize("damage", ["no database at all, but long enough to be one" * 40, ""])
def test_a_damaged_file_is_replaced(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "view.db"
    path.write_text(damage)
    view = View(path, LANES)
    view.apply([CARD, on_lane(0, body(IDS[0]))])
    assert view.get(IDS[0]) is not None
    view.close()


def test_a_forgotten_partition_can_be_read_again(view: View) -> None:
    view.apply([on_lane(0, body(IDS[0])), on_lane(0, body(IDS[1]), partition=1)])
    view.forget([0])
    assert view.get(IDS[0]) is None and (LANES[0], 0) not in view.offsets()
    assert view.get(IDS[1]) is not None and view.offsets()[LANES[0], 1] == 1
    (read,) = view.apply([on_lane(0, body(IDS[0]))])
    assert isinstance(read, TaskChange) and read.first


def test_only_old_ended_tasks_are_pruned(view: View) -> None:
    view.apply([on_lane(n, body(i)) for n, i in enumerate(IDS[:3])])
    view.apply([on_events(0, ENDS[IDS[0]]["failed"]), on_events(50, ENDS[IDS[1]]["failed"])])
    assert view.prune(before=230.0) == 1
    assert [isinstance(view.get(i), TaskView) for i in IDS[:3]] == [False, True, True]


def test_a_later_card_of_a_model_replaces_the_earlier_one(view: View) -> None:
    (read,) = view.apply(
        [
            Record(
                "card",
                Place("models", 0, 1),
                1.0,
                "",
                card(steps=3).model_dump_json().encode(),
            )
        ]
    )
    assert isinstance(read, CardRead)
    assert view.models()["sd-mini"].steps == 3


def test_a_task_has_every_value_that_the_request_left_open(view: View) -> None:
    view.apply([on_lane(0, body(IDS[0]))])
    kept = view.get(IDS[0])
    assert kept is not None and isinstance(kept.task, Task)
    assert kept.task.image_params.steps == card().steps and kept.task.cost > 0


def on_models(model: str, *aliases: str) -> Record:
    """A record of the models topic."""
    value = card(model, aliases=aliases).model_dump_json().encode()
    return Record("card", Place("models", 0, 0), 1.0, model, value)


@pytest.mark.parametrize("order", [*itertools.permutations("abc")])
def test_a_name_of_two_models_means_the_same_in_any_order_and_is_logged_once(
    order: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cards = {"a": on_models("a", "x", "c"), "b": on_models("b", "x", "x"), "c": on_models("c", "y")}
    view = View(tmp_path / "view.db", LANES)
    view.apply([cards[model] for model in order])
    view.apply([cards[model] for model in order])
    for name, model in {"x": "a", "c": "c", "y": "c", "a": "a"}.items():
        assert find_model(name, view.models()).model == model
    sentences = {
        "the name 'c' means the model c, although it is an alias of a too",
        "the name 'x' means the model a, although it is an alias of b too",
    }
    assert {record.getMessage() for record in caplog.records} >= sentences
    view.close()
    caplog.clear()
    view = View(tmp_path / "view.db", LANES)
    assert sorted(record.getMessage() for record in caplog.records) == sorted(sentences)
    view.apply([on_models("a"), on_models("b", "x")])
    assert find_model("x", view.models()).model == "b"
    assert len(caplog.records) == 2
