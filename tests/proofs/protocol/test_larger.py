"""Worlds too large to explore completely: three owners, four tasks, three attempts, every fault twice. Random walks go
through them, and wherever a walk stops, steps that are not faults end all tasks."""

import os
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.proofs.protocol.explore import Step
from tests.proofs.protocol.model import Model
from tests.proofs.protocol.state import Faults, ProtocolState, ended, first

ANY = st.integers(0, 2**16)
TWICE = Faults(*[2] * len(Faults()))
MOST_STEPS_TO_THE_END = 2000


class LargerWorld(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model = Model(attempts=3)
        self.world: ProtocolState = first(3, 4, TWICE)

    def steps(self, fault: bool) -> list[Step[ProtocolState]]:
        return [step for step in self.model.steps(self.world) if step.fault == fault]

    @rule(which=st.lists(ANY, min_size=1, max_size=8))
    def go_on(self, which: list[int]) -> None:
        for number in which:
            if steps := self.steps(fault=False):
                self.world = steps[number % len(steps)].take()

    @rule(which=ANY)
    def go_wrong(self, which: int) -> None:
        if steps := self.steps(fault=True):
            self.world = steps[which % len(steps)].take()

    def teardown(self) -> None:
        taken: Counter[str] = Counter()
        while not ended(self.world):
            assert taken.total() < MOST_STEPS_TO_THE_END, "the tasks never end"
            step = min(self.steps(fault=False), key=lambda step: taken[step.name])
            taken[step.name] += 1
            self.world = step.take()


TestLargerWorld = pytest.mark.timeout(600)(LargerWorld.TestCase)
TestLargerWorld.settings = settings(
    max_examples=int(os.environ.get("PROTOCOL_WALKS", "15")), stateful_step_count=30, deadline=None
)
