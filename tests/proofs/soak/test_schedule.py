from collections import Counter

import pytest

from tests.proofs.soak.schedule import KILLS, LONG_RUN, RUNNER_SILENCE, SHORTEST_STOP, VICTIMS, schedule


def test_the_same_seed_breaks_the_same_parts_at_the_same_times():
    assert schedule(10, 200, 7) == schedule(10, 200, 7)
    assert schedule(10, 200, 7) != schedule(10, 200, 8)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("minutes", "kills"), [(10, 200), (1, 10), (0.5, 1), (0.1, 30)])
def test_there_are_as_many_kills_as_asked_for_and_everything_happens_in_time(minutes: float, kills: int, seed: int):
    faults = schedule(minutes, kills, seed)
    assert sum(fault.kind in KILLS for fault in faults) == kills
    assert {"stop", "restart"} <= {fault.kind for fault in faults}
    assert all(0 <= fault.at <= minutes * 60 for fault in faults)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert all(fault.down >= SHORTEST_STOP for fault in faults if fault.kind == "stop")


@pytest.mark.parametrize("seed", range(20))
def test_a_long_run_breaks_every_part_and_stops_a_runner_for_longer_than_any_timeout(seed: int):
    faults = schedule(LONG_RUN / 60, 200, seed)
    hit = Counter(fault.part for fault in faults)
    assert hit.keys() == VICTIMS.keys()
    longest = max(fault.down for fault in faults)
    runners_stopped = [f for f in faults if f.part.startswith("runner") and f.kind == "stop" and f.at < LONG_RUN / 2]
    assert longest > RUNNER_SILENCE or not runners_stopped
