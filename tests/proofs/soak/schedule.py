"""The schedule of faults: a pure function of minutes, kills and seed, so that a failed run can be repeated."""

import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill", "wipe", "stop", "restart"]

KILLS: frozenset[Kind] = frozenset({"kill", "wipe"})


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a part at `at` seconds.

    kill: SIGKILL, start again after `down` seconds. wipe: the same, and its local files are deleted. restart: SIGTERM,
    start again `down` seconds after its end. stop: SIGSTOP for `down` seconds, then SIGCONT.
    """

    at: float
    part: str
    kind: Kind
    down: float


SHORTEST_STOP, LONGEST_STOP = 15.0, 25.0
"""Seconds. The shortest exceeds the group's session (6 s), a lease (10 s) and every timeout but RUNNER_SILENCE."""


@dataclass(frozen=True, slots=True)
class Victim:
    """How often a part is hit.

    `weight`: its share of the faults. `rest`: the mean seconds without a fault after one, enough for some work and often
    less than the part needs to start. `spared`: the last seconds of the soak in which it is not hit, because the end of
    the soak waits until it is ready. `stop`: the shortest and the longest stop in seconds.
    """

    weight: float
    rest: float
    spared: float = 0.0
    stop: tuple[float, float] = (SHORTEST_STOP, LONGEST_STOP)


RUNNER_SILENCE = 120.0
"""The longest timeout of the service: the seconds that a consumer waits for a runner's next frame."""
VICTIMS = {
    "kafka": Victim(2.0, 14),
    "s3": Victim(4.0, 6),
    "gateway": Victim(2.0, 30, spared=10),
    "consumer-1": Victim(4.0, 5),
    "consumer-2": Victim(4.0, 5),
    "runner.sd-mini": Victim(1.0, 45, spared=25),
    "runner.flux-mini": Victim(1.0, 45, spared=25),
}
STOPS_PER_KILL = RESTARTS_PER_KILL = 0.1
MAX_DOWN = 3.0
WAVE, STORM = 60.0, 30.0
"""Faults happen only in the first STORM of every WAVE seconds: if parts died all the time, no work would be under way
that could be lost."""
LONG_RUN = 480.0
"""A soak of at least so many seconds stops one runner for longer than RUNNER_SILENCE."""


def schedule(minutes: float, kills: int, seed: int) -> list[Fault]:
    """`kills` kills, and a tenth as many stops and restarts each, over all parts and in order of time."""
    rng = random.Random(seed)
    seconds = minutes * 60
    stops, restarts = max(1, round(kills * STOPS_PER_KILL)), max(1, round(kills * RESTARTS_PER_KILL))
    kinds = _kinds(rng, kills, stops=stops, restarts=restarts, last_stop=1 - LONGEST_STOP / seconds)
    free = dict.fromkeys(VICTIMS, 0.0)
    untouched = set(VICTIMS)
    long_stop = seconds >= LONG_RUN
    faults = []
    for at, kind in zip(_times(rng, len(kinds), seconds), kinds, strict=True):
        eligible = {part: free[part] for part, victim in VICTIMS.items() if at <= seconds - victim.spared}
        part = _choose(rng, eligible, untouched, at, kind)
        untouched.discard(part)
        victim = VICTIMS[part]
        down = rng.uniform(0, MAX_DOWN)
        if kind == "stop":
            down = rng.uniform(*victim.stop)
            if part.startswith("runner") and long_stop and at < seconds / 2:
                long_stop, down = False, RUNNER_SILENCE + 10
        elif kind == "kill" and part == "gateway" and rng.random() < 0.5:
            kind = "wipe"
        free[part] = at + down + rng.uniform(0.2, 1.8) * victim.rest
        faults.append(Fault(round(at, 2), part, kind, round(down, 2)))
    return faults


def _kinds(rng: random.Random, kills: int, *, stops: int, restarts: int, last_stop: float) -> list[Kind]:
    """The kinds in random order, with every stop before `last_stop` (a fraction of all), so that it is over at the end."""
    kinds: list[Kind] = ["kill" for _ in range(kills)]
    kinds += ["restart" for _ in range(restarts)]
    rng.shuffle(kinds)
    for _ in range(stops):
        kinds.insert(rng.randrange(max(1, int(last_stop * len(kinds)))), "stop")
    return kinds


def _times(rng: random.Random, count: int, seconds: float) -> Iterator[float]:
    """One random moment in each of `count` equal spans, compressed into the storms."""
    for index in range(count):
        wave, within = divmod((index + rng.random()) * seconds / count, WAVE)
        yield wave * WAVE + within * STORM / WAVE


def _choose(rng: random.Random, free: Mapping[str, float], untouched: Collection[str], at: float, kind: Kind) -> str:
    """A part that had its rest, or else the one whose rest ends first. Parts that were never hit come first."""
    ready = [part for part in free if free[part] <= at] or [min(free, key=lambda part: free[part])]
    ready = [part for part in ready if part in untouched] or ready
    return rng.choices(ready, [VICTIMS[part].weight if kind == "kill" else 1.0 for part in ready])[0]
