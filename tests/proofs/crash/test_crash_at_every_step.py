"""A consumer may die, freeze or be cut off before and after every call it makes: nothing is lost, doubled or stuck.

Every call of a quiet day is a point; at each the day is lived again, on twins. Deaths are tried at all of them, the
other fates at every fifth; CRASH_EVERY=1 in the environment tries everything everywhere.
"""

import asyncio
import logging
import os
import random
from collections import defaultdict
from collections.abc import Callable, Sequence

import pytest

from adapters.memory_store import MemoryStore
from functions.consume import dispatcher
from functions.consume.dispatcher import Dispatcher
from functions.consume.handler import Handler
from tasks.events import Outcome
from tasks.log import Partition
from tasks.task import Task
from tests.proofs.crash.ports import FatedStore, Mode, Point
from tests.proofs.crash.scenario import Play, day

SEED = 7
SELDOM = int(os.environ.get("CRASH_EVERY", "5"))
LONG = pytest.mark.timeout(900)


@pytest.fixture(autouse=True)
def only_errors_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


async def points(victim: str, *, mute: bool = False) -> list[Point]:
    """Every moment before and after a call in the victim's quiet day."""
    quiet = await day(Play(victim, mute=mute))
    assert not quiet.verdict
    return quiet.fate.passed


async def broken(plays: list[Play]) -> dict[Play, list[str]]:
    """The plays after which a promise did not hold, and which; every play must come to its point."""
    found = {}
    for play in plays:
        lived = await day(play)
        assert lived.fate.met, f"the day never came to {play.point}"
        if lived.verdict:
            found[play] = lived.verdict
    return found


async def test_on_a_quiet_day_every_task_ends_as_it_was_meant_to() -> None:
    lived = await day(Play())
    assert not lived.verdict
    ends = {name: (lived.status(one.task), lived.started(one.task)) for name, one in lived.asked.items()}
    assert ends == {
        "two pictures": ("completed", [1]),
        "canceled while it runs": ("canceled", [1]),
        "fills the other": ("completed", [1]),
        "canceled in the queue": ("canceled", []),
        "expires": ("expired", []),
        "with a lora": ("completed", [1]),
        "fails once": ("completed", [1, 2]),
        "fails always": ("failed", [1, 2, 3]),
        "asks for a lora there is not": ("failed", []),
        "busy once": ("completed", [1]),
        "runs at the second": ("completed", [1, 2]),
        "after the rebalance": ("completed", [1]),
    }


async def test_the_points_are_the_same_every_day_and_cover_every_call_a_consumer_makes() -> None:
    seen = await points("first")
    assert seen == await points("first")
    assert {point.call for point in seen} >= {
        *("delivery of records", "delivery of assigned", "delivery of revoked"),
        *("emit started", "emit progress", "append released", "append outcome", "append card", "dead letter", "commit"),
        *("put image", "put outcome", "get outcome"),
        *("describe", "run", "frame accepted", "frame started", "frame step", "frame image", "frame end", "sleep"),
    }


@LONG
@pytest.mark.parametrize("victim", ["first", "second"])
@pytest.mark.parametrize(
    ("mode", "heir_at_once", "mute", "every"),
    [
        pytest.param("killed", True, False, 1, id="killed"),
        pytest.param("killed", False, False, SELDOM, id="killed, and replaced later"),
        pytest.param("killed", True, True, SELDOM, id="killed, and nothing it emitted arrived"),
        pytest.param("frozen", True, False, SELDOM, id="frozen beyond its lease"),
        pytest.param("frozen", True, True, SELDOM, id="frozen beyond its lease, and nothing it emitted arrived"),
        pytest.param("cut off", True, False, SELDOM, id="cut off beyond its lease"),
    ],
)
async def test_whatever_happens_to_a_consumer_every_task_ends_once_with_all_its_pictures(
    victim: str,
    mode: Mode,
    heir_at_once: bool,
    mute: bool,
    every: int,
    caplog: pytest.LogCaptureFixture,
    record_property: Callable[[str, object], None],
) -> None:
    tried = (await points(victim, mute=mute))[SEED % every :: every]
    plays = [Play(victim, point, mode, heir_at_once, mute=mute) for point in tried]
    assert not await broken(plays)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    record_property("points", len(plays))
    print(f"{len(plays)} points")


@LONG
async def test_when_a_consumer_and_its_successor_die_a_third_one_ends_every_task() -> None:
    seen = await points("first")
    pick = random.Random(SEED)
    plays = [Play("first", pick.choice(seen), again=pick.choice(seen)) for _ in range(300 // SELDOM)]
    assert not await broken(plays)


def commit_when_a_task_starts(patch: pytest.MonkeyPatch) -> None:
    dispatch = Dispatcher.dispatch

    def hasty(self: Dispatcher) -> None:
        dispatch(self)
        for task_id in self.attempts.under_way:
            self.partitions.end(task_id)

    patch.setattr(Dispatcher, "dispatch", hasty)


def announce_before_the_pictures_are_stored(patch: pytest.MonkeyPatch) -> None:
    put, finish = FatedStore.put_image, Handler.finish
    waiting: dict[str, list[tuple[FatedStore, str, bytes, str]]] = defaultdict(list)

    async def later(self: FatedStore, key: str, data: bytes, content_type: str) -> None:
        waiting[key.split("/")[1]].append((self, key, data, content_type))

    async def hasty(self: Handler, task: Task, partition: Partition, **more: object) -> Outcome:
        outcome = await finish(self, task, partition, **more)  # type: ignore[arg-type]
        for picture in waiting.pop(task.task_id, ()):
            await put(*picture)
        return outcome

    patch.setattr(FatedStore, "put_image", later)
    patch.setattr(Handler, "finish", hasty)


def announce_before_the_outcome_is_written(patch: pytest.MonkeyPatch) -> None:
    put = FatedStore.put_outcome
    left = []

    async def later(self: FatedStore, outcome: Outcome) -> Outcome:
        left.append(asyncio.ensure_future(put(self, outcome)))
        return outcome

    patch.setattr(FatedStore, "put_outcome", later)


def write_outcomes_over_each_other(patch: pytest.MonkeyPatch) -> None:
    async def put_over(self: MemoryStore, key: str, data: bytes) -> bytes:
        self.objects[key] = data
        return data

    patch.setattr(MemoryStore, "put_once", put_over)


def sweep_the_winners_pictures_away(patch: pytest.MonkeyPatch) -> None:
    async def sweep(self: MemoryStore, keys: Sequence[str]) -> None:
        folder = keys[0].rpartition("/")[0]
        for key in [key for key in self.objects if key.startswith(folder) and not key.endswith(".json")]:
            del self.objects[key]

    patch.setattr(MemoryStore, "delete_images", sweep)


def take_a_task_whose_owner_is_alive(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher, "lease_ends", lambda last_event_read: last_event_read)
    patch.setattr(dispatcher, "LAST_LOOK_SECONDS", 0.0)


def close_an_unreadable_record_before_its_dead_letter_is_written(patch: pytest.MonkeyPatch) -> None:
    read = Dispatcher._read

    def hasty(self: Dispatcher, change: object) -> None:
        read(self, change)  # type: ignore[arg-type]
        if record := getattr(change, "record", None):
            self.partitions.close([record.place])

    patch.setattr(Dispatcher, "_read", hasty)


@LONG
@pytest.mark.parametrize(
    ("seed_bug", "mode", "says"),
    [
        (commit_when_a_task_starts, "killed", "has no outcome"),
        (announce_before_the_pictures_are_stored, "killed", "a picture is missing"),
        (announce_before_the_outcome_is_written, "killed", "outcome.json"),
        (write_outcomes_over_each_other, "frozen", "two different outcomes"),
        (sweep_the_winners_pictures_away, "frozen", "a picture is missing"),
        (take_a_task_whose_owner_is_alive, "killed", "times, which is more than"),
        (close_an_unreadable_record_before_its_dead_letter_is_written, "killed", "poison"),
    ],
)
async def test_a_consumer_with_a_mistake_in_it_breaks_a_promise_at_some_point(
    seed_bug: Callable[[pytest.MonkeyPatch], None], mode: Mode, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"put image", "put outcome", "append outcome", "dead letter", "frame end"}
    seed_bug(monkeypatch)
    seen = [point for point in (await day(Play())).fate.passed if point.call in calls]
    for point in seen:
        if says in str((await day(Play("first", point, mode))).verdict):
            return
    pytest.fail(f"none of {len(seen)} points showed it")
