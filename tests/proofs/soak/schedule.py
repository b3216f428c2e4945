"""What is broken when: a pure function of minutes, kills and seed, so that a bad run can be run again."""

import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill", "wipe", "stop", "restart"]

KILLS: frozenset[Kind] = frozenset({"kill", "wipe"})


@dataclass(frozen=True, slots=True)
class Fault:
    """At `at` seconds: kill -9 (wipe: its local files go too) or SIGTERM, and start again `down` seconds after the
    end; or stop: SIGSTOP for `down` seconds, then SIGCONT."""

    at: float
    part: str
    kind: Kind
    down: float


SHORTEST_STOP, LONGEST_STOP = 15.0, 25.0
"""Even the shortest is longer than the group's session (6 s), a lease (10 s), and all patience but RUNNER_SILENCE."""


@dataclass(frozen=True, slots=True)
class Victim:
    """How a part is treated: its share of the faults; the seconds it is mostly left alone after one, which lets it do
    some work between two and is still often less than it takes to start; and the seconds at the end in which it is
    spared, for all that is left of the soak waits until it is back."""

    weight: float
    rest: float
    spared: float = 0.0
    stop: tuple[float, float] = (SHORTEST_STOP, LONGEST_STOP)


RUNNER_SILENCE = 120.0
"""The longest timeout there is: a consumer waits so long for a runner's next frame."""
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
"""Of so many seconds, the first so many are full of faults and the rest is quiet: where something dies all the time
nothing is under way that could be lost."""
LONG_RUN = 480.0
"""From so many seconds on, one runner is stopped for longer than even RUNNER_SILENCE."""


def schedule(minutes: float, kills: int, seed: int) -> list[Fault]:
    """`kills` times kill -9, and a tenth as many stops and restarts each, in order of time and over all parts."""
    dice = random.Random(seed)
    seconds = minutes * 60
    more = max(1, round(kills * STOPS_PER_KILL)), max(1, round(kills * RESTARTS_PER_KILL))
    kinds = _kinds(dice, kills, stops=more[0], restarts=more[1], last_stop=1 - LONGEST_STOP / seconds)
    free = dict.fromkeys(VICTIMS, 0.0)
    untouched = set(VICTIMS)
    long_stop = seconds >= LONG_RUN
    faults = []
    for at, kind in zip(_times(dice, len(kinds), seconds), kinds, strict=True):
        there = {part: free[part] for part, victim in VICTIMS.items() if at <= seconds - victim.spared}
        part = _choose(dice, there, untouched, at, kind)
        untouched.discard(part)
        victim = VICTIMS[part]
        down = dice.uniform(0, MAX_DOWN)
        if kind == "stop":
            down = dice.uniform(*victim.stop)
            if part.startswith("runner") and long_stop and at < seconds / 2:
                long_stop, down = False, RUNNER_SILENCE + 10
        elif kind == "kill" and part == "gateway" and dice.random() < 0.5:
            kind = "wipe"
        free[part] = at + down + dice.uniform(0.2, 1.8) * victim.rest
        faults.append(Fault(round(at, 2), part, kind, round(down, 2)))
    return faults


def _kinds(dice: random.Random, kills: int, *, stops: int, restarts: int, last_stop: float) -> list[Kind]:
    """In any order, but with every stop in the first part of the time, so that it is over at the end."""
    kinds: list[Kind] = ["kill" for _ in range(kills)]
    kinds += ["restart" for _ in range(restarts)]
    dice.shuffle(kinds)
    for _ in range(stops):
        kinds.insert(dice.randrange(max(1, int(last_stop * len(kinds)))), "stop")
    return kinds


def _times(dice: random.Random, count: int, seconds: float) -> Iterator[float]:
    """One moment in each of `count` equal spans, pressed into storms: never all at once, and never evenly."""
    for index in range(count):
        wave, within = divmod((index + dice.random()) * seconds / count, WAVE)
        yield wave * WAVE + within * STORM / WAVE


def _choose(dice: random.Random, free: Mapping[str, float], untouched: Collection[str], at: float, kind: Kind) -> str:
    """Of the parts that had their rest, or else of the one that has it soonest: first those never broken yet."""
    ready = [part for part in free if free[part] <= at] or [min(free, key=lambda part: free[part])]
    ready = [part for part in ready if part in untouched] or ready
    return dice.choices(ready, [VICTIMS[part].weight if kind == "kill" else 1.0 for part in ready])[0]
