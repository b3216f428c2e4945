"""The protocol in every reachable state: the product's rules keep every promise, and each wrong rule breaks one.

The rules are the product's own functions (rules.py). `test_the_handler_takes_its_steps_in_the_order_of_the_model` checks
that the handler does between them what the model does.
"""

import pytest

from adapters.memory_log import EVENTS
from tests.proofs.protocol.explore import BrokenPromiseError, explore
from tests.proofs.protocol.model import Model
from tests.proofs.protocol.rules import Rules
from tests.proofs.protocol.seeds import SEEDS
from tests.proofs.protocol.state import Faults, ProtocolState, ended, first
from tests.proofs.protocol.worlds import QUICK
from tests.support.world import World
from tests.support.world import world as consumer_world


@pytest.mark.parametrize("name", QUICK)
def test_every_promise_holds_in_every_state_and_from_each_state_all_tasks_end(name: str):
    tasks, faults = QUICK[name]
    explored = explore(first(2, tasks, faults), Model().steps, ended)
    assert not explored.broken, f"\n{explored}"


@pytest.mark.parametrize("name", SEEDS)
def test_a_wrong_rule_is_found_with_the_shortest_trace_to_it(name: str):
    seed = SEEDS[name]
    explored = explore(first(2, 1, seed.faults), Model(seed.rules).steps, ended)
    print(f"\n{name}\n{explored}")
    assert seed.breaks in explored.broken
    assert explored.trace


@pytest.mark.parametrize("name", SEEDS)
def test_the_right_rules_are_explored_with_the_faults_that_reveal_wrong_ones(name: str):
    faults = SEEDS[name].faults
    assert any(all(count <= most for count, most in zip(faults, world, strict=True)) for _, world in QUICK.values())


def walk(world: ProtocolState, *names: str, model: Model | None = None) -> ProtocolState:
    """The state after these steps."""
    model = model or Model()
    for name in names:
        steps = {step.name: step for step in model.steps(world)}
        assert name in steps, f"{name!r} cannot happen now, only {sorted(steps)}"
        world = steps[name].take()
    return world


STOPPED_AND_TAKEN_OVER = (
    "A1 becomes the owner",
    "A1 begins task 0",
    "A1 has a runner that takes task 0",
    "A1's 'started' of task 0 is written",
    "A1 is stopped",
    "the group drops A1, which does not notice",
    "B1 becomes the owner",
    "half a lease passes",
    "half a lease passes",
    "B1 sees the end of the delay or lease of task 0",
    "B1 looks for an outcome of task 0",
    "B1 has a runner that takes task 0",
    "B1's 'started' of task 0 is written",
)
"""After these steps A1 is a zombie."""


def test_a_zombie_that_finishes_last_takes_the_stored_outcome_and_drops_its_own():
    world = walk(
        first(2, 1, Faults(stops=1)),
        *STOPPED_AND_TAKEN_OVER,
        "A1 is back",
        "A1 has made and begins to store task 0",
        "B1 has made and begins to store task 0",
        "B1 writes the outcome of task 0",
        "A1 writes the outcome of task 0",
        "A1 writes the event of task 0",
        "B1 reads",
    )
    assert world.tasks[0].outcome == ("outcome", "completed", 2, (2, "B1"))
    assert world.tasks[0].pictures == {(2, "B1")}
    assert world.committed == 1
    assert world.owners[0].tasks[0].act is None


def test_the_outcome_of_a_zombie_that_finishes_first_is_the_only_one():
    world = walk(
        first(2, 1, Faults(stops=1)),
        *STOPPED_AND_TAKEN_OVER,
        "A1 is back",
        "A1 has made and begins to store task 0",
        "A1 writes the outcome of task 0",
        "B1 has made and begins to store task 0",
        "B1 writes the outcome of task 0",
        "B1 writes the event of task 0",
        "B1 reads",
    )
    assert world.tasks[0].outcome == ("outcome", "completed", 1, (1, "A1"))
    assert world.tasks[0].pictures == {(1, "A1")}
    assert world.committed == 1


def test_a_zombie_that_reads_of_its_takeover_stops_and_its_release_changes_nothing():
    before = walk(first(2, 1, Faults(stops=1)), *STOPPED_AND_TAKEN_OVER, "A1 is back")
    after = walk(before, "A1 reads", "A1 stops (taken_over) task 0")
    assert after.tasks == before.tasks
    assert after.tasks[0].log.owner == "B1"


def test_no_step_of_a_woken_zombie_breaks_a_promise():
    after_waking = 0
    model = Model()

    def steps(world: ProtocolState):
        nonlocal after_waking
        after_waking += any(
            owner.owns and not owner.away and world.group not in ("", owner.name) for owner in world.owners
        )
        return model.steps(world)

    explored = explore(walk(first(2, 1, Faults(stops=1)), *STOPPED_AND_TAKEN_OVER), steps, ended)
    assert not explored.broken, f"\n{explored}"
    assert after_waking > 100


def test_a_broken_promise_is_raised_by_the_step_that_breaks_it():
    world = walk(first(1, 1, Faults()), "A1 becomes the owner", "A1 begins task 0", "A1 has a runner that takes task 0")
    with pytest.raises(BrokenPromiseError, match="P2"):
        walk(
            world,
            "A1's 'started' of task 0 is written",
            "A1 has made and begins to store task 0",
            model=Model(Rules(order=("outcome", "event", "pictures"))),
        )


async def test_the_handler_takes_its_steps_in_the_order_of_the_model(monkeypatch: pytest.MonkeyPatch):
    effects: list[str] = []

    def record(world: World, part: object, name: str, step: str) -> None:
        real = getattr(part, name)

        def call(*args: object, **kwargs: object) -> object:
            effects.append(step)
            return real(*args, **kwargs)

        monkeypatch.setattr(part, name, call)

    async with consumer_world() as w:
        running = await w.start()
        for part, name, step in (
            (w.store, "put_image", "pictures"),
            (w.store, "put_outcome", "outcome"),
            (running.log, "append_event", "event"),
            (running.log.members[0], "commit", "commit"),
        ):
            record(w, part, name, step)
        await w.submit(image_params={"num_images": 2})
        await w.clock.advance(10)
        assert w.broker.topics[EVENTS]
    assert list(dict.fromkeys(effects)) == [*Rules().order, "commit"]
    assert effects.count("pictures") == 2
