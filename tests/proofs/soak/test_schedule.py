"""The schedule of faults of a soak."""

from collections import Counter

import pytest

from tests.proofs.soak.schedule import KILLS, LONG_RUN, RUNNER_SILENCE, SHORTEST_STOP, VICTIMS, schedule


def test_the_same_seed_gives_the_same_faults():
    assert schedule(10, 200, 7) == schedule(10, 200, 7)
    assert schedule(10, 200, 7) != schedule(10, 200, 8)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("minutes", "kills"), [(10, 200), (1, 10), (0.5, 1), (0.1, 30)])
def test_a_schedule_has_exactly_its_kills_and_ends_in_time(minutes: float, kills: int, seed: int):
    faults = schedule(minutes, kills, seed)
    assert sum(fault.kind in KILLS for fault in faults) == kills
    assert {"stop", "restart"} <= {fault.kind for fault in faults}
    assert all(0 <= fault.at <= minutes * 60 for fault in faults)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert all(fault.down >= SHORTEST_STOP for fault in faults if fault.kind == "stop")


@pytest.mark.parametrize("seed", range(20))
def test_a_long_run_hits_every_part_and_stops_a_runner_longer_than_any_timeout(seed: int):
    faults = schedule(LONG_RUN / 60, 200, seed)
    hits = Counter(fault.part for fault in faults)
    assert hits.keys() == VICTIMS.keys()
    longest = max(fault.down for fault in faults)
    runners_stopped = [f for f in faults if f.part.startswith("runner") and f.kind == "stop" and f.at < LONG_RUN / 2]
    assert longest > RUNNER_SILENCE or not runners_stopped
