"""Visit every reachable state breadth first, so that the first trace to a broken promise is a shortest one."""

import gc
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import process_time
from typing import Generic, TypeVar

State = TypeVar("State", bound=Hashable)


class BrokenPromiseError(Exception):
    """The promise that does not hold after this step."""


@dataclass(frozen=True)
class Step(Generic[State]):
    """One possible step: `take` returns the state after it or raises BrokenPromiseError. A `fault` may never happen;
    every other step that stays possible happens eventually."""

    name: str
    take: Callable[[], State]
    fault: bool = False


@dataclass(frozen=True)
class Explored:
    """What was visited, and the shortest trace to a broken promise; `trace` is empty if every promise holds."""

    states: int
    steps: int
    depth: int
    seconds: float
    broken: str = ""
    trace: tuple[str, ...] = ()
    complete: bool = True

    def __str__(self) -> str:
        """For people: the trace, one step a line, and the size."""
        size = f"{self.states:,} states, {self.steps:,} steps, {self.depth} deep, {self.seconds:.1f} s of CPU"
        size += "" if self.complete else ", not all of them"
        lines = [f"{number:3}  {name}" for number, name in enumerate(self.trace, 1)]
        return "\n".join([self.broken, *lines, size] if self.broken else [size])


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: states have no reference cycles, and searching millions of them dominates the run time."""
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
    """Visit every state, at most `most`.

    A promise is broken if a step breaks it, or if steps that are not faults cannot lead from some state to one that has
    `ended`. As every step that stays possible happens eventually, the second means that some run never ends.
    """
    began = process_time()
    numbers = {first: 0}
    states = [first]
    depths, parents, sources, targets = array("H", [0]), array("l", [-1]), array("l"), array("l")
    taken = 0

    def explored(broken: str, at: int, *more: str) -> Explored:
        names = list(more)
        while parents[at] >= 0:
            reached = states[at]
            names.append(next(step.name for step in steps(states[parents[at]]) if step.take() == reached))
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
    # The sources of each target, as a compressed sparse list.
    starts = array("l", bytes(8 * (len(states) + 1)))
    for target in targets:
        starts[target + 1] += 1
    for index in range(len(states)):
        starts[index + 1] += starts[index]
    position, leads = array("l", starts), array("l", bytes(8 * len(sources)))
    for source, target in zip(sources, targets, strict=True):
        leads[position[target]] = source
        position[target] += 1
    good = bytearray(ended(state) for state in states)
    unvisited = [index for index, is_good in enumerate(good) if is_good]
    while unvisited:
        at = unvisited.pop()
        for source in leads[starts[at] : starts[at + 1]]:
            if not good[source]:
                good[source] = 1
                unvisited.append(source)
    stuck = good.find(0)
    return None if stuck < 0 else stuck
