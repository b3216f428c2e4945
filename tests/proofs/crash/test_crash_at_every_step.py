"""A consumer may die, freeze or be cut off before and after every call it makes: nothing is lost, doubled or stuck.

Every call of a run without a fault gives two points. For each point the scenario runs again, on twins, with the fault at
that point. Deaths are tried at every point and other faults at every fifth; CRASH_EVERY=1 in the environment tries every
fault at every point.
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
from tests.proofs.crash.ports import FaultyStore, Mode, Point
from tests.proofs.crash.scenario import FaultCase, run_case

SEED = 7
SPARSE = int(os.environ.get("CRASH_EVERY", "5"))
LONG = pytest.mark.timeout(900)


@pytest.fixture(autouse=True)
def only_errors_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


async def points(victim: str, *, mute: bool = False) -> list[Point]:
    """Every moment before and after a call of the victim in a run without a fault."""
    faultless = await run_case(FaultCase(victim, mute=mute))
    assert not faultless.violations
    return faultless.fault.passed


async def broken(cases: list[FaultCase]) -> dict[FaultCase, list[str]]:
    """The cases that broke promises, with the broken promises. Every case must reach its point."""
    violations = {}
    for case in cases:
        scenario = await run_case(case)
        assert scenario.fault.reached, f"the scenario never reached {case.point}"
        if scenario.violations:
            violations[case] = scenario.violations
    return violations


async def test_without_a_fault_every_task_ends_as_expected() -> None:
    scenario = await run_case(FaultCase())
    assert not scenario.violations
    ends = {
        name: (scenario.status(expected.task), scenario.started(expected.task))
        for name, expected in scenario.expected.items()
    }
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


async def test_the_points_are_the_same_in_every_run_and_cover_every_call_of_a_consumer() -> None:
    passed = await points("first")
    assert passed == await points("first")
    assert {point.call for point in passed} >= {
        *("delivery of records", "delivery of assigned", "delivery of revoked"),
        *("emit started", "emit progress", "append released", "append outcome", "append card", "dead letter", "commit"),
        *("put image", "put outcome", "get outcome"),
        *("describe", "run", "frame accepted", "frame started", "frame step", "frame image", "frame end", "sleep"),
    }


@LONG
@pytest.mark.parametrize("victim", ["first", "second"])
@pytest.mark.parametrize(
    ("mode", "successor_at_once", "mute", "every"),
    [
        pytest.param("killed", True, False, 1, id="killed"),
        pytest.param("killed", False, False, SPARSE, id="killed, and replaced later"),
        pytest.param("killed", True, True, SPARSE, id="killed, and nothing it emitted arrived"),
        pytest.param("frozen", True, False, SPARSE, id="frozen beyond its lease"),
        pytest.param("frozen", True, True, SPARSE, id="frozen beyond its lease, and nothing it emitted arrived"),
        pytest.param("cut off", True, False, SPARSE, id="cut off beyond its lease"),
    ],
)
async def test_whatever_happens_to_a_consumer_every_task_ends_once_with_all_its_pictures(
    victim: str,
    mode: Mode,
    successor_at_once: bool,
    mute: bool,
    every: int,
    caplog: pytest.LogCaptureFixture,
    record_property: Callable[[str, object], None],
) -> None:
    chosen = (await points(victim, mute=mute))[SEED % every :: every]
    cases = [FaultCase(victim, point, mode, successor_at_once, mute=mute) for point in chosen]
    assert not await broken(cases)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    record_property("points", len(cases))
    print(f"{len(cases)} points")


@LONG
async def test_when_a_consumer_and_its_successor_die_a_third_one_ends_every_task() -> None:
    passed = await points("first")
    pick = random.Random(SEED)
    cases = [FaultCase("first", pick.choice(passed), again=pick.choice(passed)) for _ in range(300 // SPARSE)]
    assert not await broken(cases)


def commit_when_a_task_starts(patch: pytest.MonkeyPatch) -> None:
    dispatch = Dispatcher.dispatch

    def dispatch_and_commit(self: Dispatcher) -> None:
        dispatch(self)
        for task_id in self.attempts.under_way:
            self.partitions.end(task_id)

    patch.setattr(Dispatcher, "dispatch", dispatch_and_commit)


def announce_before_the_pictures_are_stored(patch: pytest.MonkeyPatch) -> None:
    put, finish = FaultyStore.put_image, Handler.finish
    waiting: dict[str, list[tuple[FaultyStore, str, bytes, str]]] = defaultdict(list)

    async def delay_image(self: FaultyStore, key: str, data: bytes, content_type: str) -> None:
        waiting[key.split("/")[1]].append((self, key, data, content_type))

    async def finish_early(self: Handler, task: Task, partition: Partition, **more: object) -> Outcome:
        outcome = await finish(self, task, partition, **more)  # type: ignore[arg-type]
        for picture in waiting.pop(task.task_id, ()):
            await put(*picture)
        return outcome

    patch.setattr(FaultyStore, "put_image", delay_image)
    patch.setattr(Handler, "finish", finish_early)


def announce_before_the_outcome_is_written(patch: pytest.MonkeyPatch) -> None:
    put = FaultyStore.put_outcome
    writes = []

    async def delay_outcome(self: FaultyStore, outcome: Outcome) -> Outcome:
        writes.append(asyncio.ensure_future(put(self, outcome)))
        return outcome

    patch.setattr(FaultyStore, "put_outcome", delay_outcome)


def write_outcomes_over_each_other(patch: pytest.MonkeyPatch) -> None:
    async def put_over(self: MemoryStore, key: str, data: bytes) -> bytes:
        self.objects[key] = data
        return data

    patch.setattr(MemoryStore, "put_once", put_over)


def delete_the_winners_pictures(patch: pytest.MonkeyPatch) -> None:
    async def delete_all(self: MemoryStore, keys: Sequence[str]) -> None:
        folder = keys[0].rpartition("/")[0]
        for key in [key for key in self.objects if key.startswith(folder) and not key.endswith(".json")]:
            del self.objects[key]

    patch.setattr(MemoryStore, "delete_images", delete_all)


def take_a_task_whose_owner_is_alive(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher, "lease_ends", lambda last_event_read: last_event_read)
    patch.setattr(dispatcher, "LAST_LOOK_SECONDS", 0.0)


def close_an_unreadable_record_before_its_dead_letter_is_written(patch: pytest.MonkeyPatch) -> None:
    read = Dispatcher._read

    def read_and_close(self: Dispatcher, change: object) -> None:
        read(self, change)  # type: ignore[arg-type]
        if record := getattr(change, "record", None):
            self.partitions.close([record.place])

    patch.setattr(Dispatcher, "_read", read_and_close)


@LONG
@pytest.mark.parametrize(
    ("seed_bug", "mode", "message"),
    [
        (commit_when_a_task_starts, "killed", "has no outcome"),
        (announce_before_the_pictures_are_stored, "killed", "a picture is missing"),
        (announce_before_the_outcome_is_written, "killed", "outcome.json"),
        (write_outcomes_over_each_other, "frozen", "two different outcomes"),
        (delete_the_winners_pictures, "frozen", "a picture is missing"),
        (take_a_task_whose_owner_is_alive, "killed", "times, which is more than"),
        (close_an_unreadable_record_before_its_dead_letter_is_written, "killed", "poison"),
    ],
)
async def test_a_consumer_with_a_seeded_bug_breaks_a_promise_at_some_point(
    seed_bug: Callable[[pytest.MonkeyPatch], None], mode: Mode, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"put image", "put outcome", "append outcome", "dead letter", "frame end"}
    seed_bug(monkeypatch)
    chosen = [point for point in (await run_case(FaultCase())).fault.passed if point.call in calls]
    for point in chosen:
        if message in str((await run_case(FaultCase("first", point, mode))).violations):
            return
    pytest.fail(f"none of {len(chosen)} points showed it")
