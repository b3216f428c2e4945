"""Every state that can be reached, breadth first, so that the first trace to a broken promise is a shortest one."""

import gc
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import process_time
from typing import Generic, TypeVar

State = TypeVar("State", bound=Hashable)


class BrokenPromiseError(Exception):
    """What was promised and would not hold after this step."""


@dataclass(frozen=True)
class Step(Generic[State]):
    """One way on: `take` gives the state after it or raises BrokenPromiseError. A `fault` may happen and need not;
    everything else happens in the end."""

    name: str
    take: Callable[[], State]
    fault: bool = False


@dataclass(frozen=True)
class Explored:
    """What was seen, and the shortest way to what should not be: `trace` is empty where every promise holds."""

    states: int
    steps: int
    depth: int
    seconds: float
    broken: str = ""
    trace: tuple[str, ...] = ()
    complete: bool = True

    def __str__(self) -> str:
        """For people: the trace line by line."""
        size = f"{self.states:,} states, {self.steps:,} steps, {self.depth} deep, {self.seconds:.1f} s of CPU"
        size += "" if self.complete else ", not all of them"
        lines = [f"{number:3}  {name}" for number, name in enumerate(self.trace, 1)]
        return "\n".join([self.broken, *lines, size] if self.broken else [size])


@contextmanager
def _uncollected() -> Iterator[None]:
    """The states hold no cycles, and looking for some among millions takes longer than all the rest."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@_uncollected()
def explore(
    first: State,
    steps: Callable[[State], Iterable[Step[State]]],
    ended: Callable[[State], bool],
    most: int = 10_000_000,
) -> Explored:
    """Visit every state (at most `most`). Broken is a promise that a step breaks, or a state from which no way
    without a fault leads to one that `ended`: given that what can always happen again happens in the end, that is the
    same as "some run never ends"."""
    began = process_time()
    numbers = {first: 0}
    states = [first]
    depths, parents, sources, targets = array("H", [0]), array("l", [-1]), array("l"), array("l")
    taken = 0

    def explored(broken: str, at: int, *more: str) -> Explored:
        names = list(more)
        while parents[at] >= 0:
            found = states[at]
            names.append(next(step.name for step in steps(states[parents[at]]) if step.take() == found))
            at = parents[at]
        return Explored(
            len(states), taken, max(depths), process_time() - began, broken, tuple(reversed(names)), len(states) < most
        )

    at = 0
    while at < len(states):
        for step in steps(states[at]):
            taken += 1
            try:
                after = step.take()
            except BrokenPromiseError as broken:
                return explored(str(broken), at, step.name)
            number = numbers.get(after)
            if number is None:
                if len(states) >= most:
                    continue
                number = numbers[after] = len(states)
                states.append(after)
                depths.append(depths[at] + 1)
                parents.append(at)
            if not step.fault:
                sources.append(at)
                targets.append(number)
        at += 1
    if len(states) < most and (stuck := _stuck(states, ended, sources, targets)) is not None:
        return explored("From here the tasks never end.", stuck)
    return explored("", 0)


def _stuck(
    states: list[State], ended: Callable[[State], bool], sources: "array[int]", targets: "array[int]"
) -> int | None:
    """The first state from which no ended one can be reached."""
    # Edges sorted by target, as a compressed list: who leads here?
    starts = array("l", bytes(8 * (len(states) + 1)))
    for target in targets:
        starts[target + 1] += 1
    for index in range(len(states)):
        starts[index + 1] += starts[index]
    place, leads = array("l", starts), array("l", bytes(8 * len(sources)))
    for source, target in zip(sources, targets, strict=True):
        leads[place[target]] = source
        place[target] += 1
    good = bytearray(ended(state) for state in states)
    left = [index for index, is_good in enumerate(good) if is_good]
    while left:
        at = left.pop()
        for source in leads[starts[at] : starts[at + 1]]:
            if not good[source]:
                good[source] = 1
                left.append(source)
    stuck = good.find(0)
    return None if stuck < 0 else stuck
