"""One scenario with every kind of task and event in it. It runs on twins and on real servers."""

import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from adapters.memory_runner import MemoryRunner
from tasks.capabilities import ServedModel
from tasks.errors import GenerationFailed, RunnerBusy
from tasks.ports import Clock
from tasks.runner_api import Frame, Input, RunRequest
from tasks.task import Lora, Task
from tests.support.world import card

ONE, OTHER = "sd-mini", "sd-turbo"
"""Two models whose partitions have different owners when there are two consumers."""
CARDS = (card(ONE, pixel_budget=3 * 64 * 64), card(OTHER, pixel_budget=64 * 64))
CARDS_WITHOUT_RUNNERS = tuple(card.model_copy(update={"runners": 0}) for card in CARDS)
"""The cards in the log when the scenario begins: the models are known and have no runners."""
STEP_SECONDS = 0.5
POISON = b"nonsense"


@dataclass(frozen=True)
class Expected:
    """A task, the statuses it may end with, and how many attempts it takes if its consumer has no fault."""

    task: Task
    ends: tuple[str, ...]
    runs: int = 1


class ScenarioHost(Protocol):
    """The service that a scenario runs on: twins or real servers."""

    async def submit(self, **body: object) -> Task:
        """Append a task as the gateway does."""
        ...

    async def append(self, task: Task) -> None:
        """Append exactly this record."""
        ...

    async def poison(self) -> None:
        """Append POISON to the lane of ONE."""
        ...

    async def cancel(self, task: Task) -> None:
        """Request a cancel as the gateway does."""
        ...

    async def launch(self, name: str) -> None:
        """Start the consumer of that name."""
        ...

    async def leave(self, name: str) -> None:
        """Shut the consumer down as SIGTERM does, with one second of grace, unless it is dead."""
        ...

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        ...


async def run_story(host: ScenarioHost) -> dict[str, Expected]:
    """Run the scenario. Returns what is expected of each task, by the task's name."""
    expected: dict[str, Expected] = {}

    async def expect(name: str, *ends: str, runs: int = 1, **body: object) -> Task:
        task = await host.submit(**{"model_name": ONE, "prompt": name, "image_params": {"steps": 2}} | body)
        expected[name] = Expected(task, ends, runs)
        return task

    await host.poison()
    await expect("two pictures", "completed", image_params={"steps": 2, "num_images": 2})
    await host.launch("first")
    canceled = await expect("canceled while it runs", "canceled", image_params={"steps": 40})
    await expect("fills the other", "completed", model_name=OTHER, image_params={"steps": 8})
    # If the consumer died, its runner is free again and these two tasks may start.
    waiting = await expect("canceled in the queue", "canceled", "completed", model_name=OTHER)
    await expect("expires", "expired", "completed", model_name=OTHER, start_within=2)
    twice = await expect("with a lora", "completed", loras=["night"])
    await host.append(twice)
    await expect("fails once", "completed", runs=2)
    await expect("fails always", "failed", runs=3)
    await host.wait(0.7)
    await host.cancel(waiting)
    await host.wait(1)
    await host.cancel(canceled)
    refused = twice.model_copy(update={"task_id": uuid.uuid4().hex, "loras": (Lora(name="nope"),)})
    expected["asks for a lora there is not"] = Expected(refused, ("failed",), 0)
    await host.append(refused)
    await host.wait(0.8)
    await host.launch("second")
    await expect("busy once", "completed")
    await expect("runs at the second", "completed", model_name=OTHER, image_params={"steps": 14})
    await host.wait(3)
    await host.leave("second")
    await expect("after the rebalance", "completed", model_name=OTHER)
    await host.wait(4)
    return expected


class FailingRunner(MemoryRunner):
    """Fails or refuses the attempts whose prompts name it."""

    def __init__(self, card: ServedModel, clock: Clock) -> None:
        super().__init__(card, clock, STEP_SECONDS, f"memory://{card.model}")
        self._refused: set[str] = set()

    async def run(self, request: RunRequest, inputs: Sequence[Input] = ()) -> AsyncGenerator[Frame, None]:
        if request.prompt == "busy once" and request.task_id not in self._refused:
            self._refused.add(request.task_id)
            raise RunnerBusy
        fails = request.prompt == "fails always" or (request.attempt == 1 and request.prompt == "fails once")
        async for frame in super().run(request, inputs):
            if fails and frame.kind == "step":
                raise GenerationFailed("The prompt asks for a failure.")
            yield frame
