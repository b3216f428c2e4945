"""One day in the life of a queue with everything in it, told once, for twins and for real servers alike."""

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
"""Two models whose lanes go to different owners when there are two."""
CARDS = (card(ONE, pixel_budget=3 * 64 * 64), card(OTHER, pixel_budget=64 * 64))
CARDS_BEFORE = tuple(card.model_copy(update={"runners": 0}) for card in CARDS)
"""What the log says when the day begins: the models are known, and their runners were away."""
STEP_SECONDS = 0.5
POISON = b"nonsense"


@dataclass(frozen=True)
class Expected:
    """A task, how it may end, and how often it runs when nothing happens to its consumer."""

    task: Task
    ends: tuple[str, ...]
    runs: int = 1


class House(Protocol):
    """Where the day is lived."""

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
        """Ask for a cancel as the gateway does."""
        ...

    async def launch(self, name: str) -> None:
        """Start the consumer of that name."""
        ...

    async def leave(self, name: str) -> None:
        """End the consumer as SIGTERM does, with a second's grace, if it still lives."""
        ...

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        ...


async def tell(house: House) -> dict[str, Expected]:
    """Live the day; what was asked for, by name."""
    asked: dict[str, Expected] = {}

    async def expect(name: str, *ends: str, runs: int = 1, **body: object) -> Task:
        task = await house.submit(**{"model_name": ONE, "prompt": name, "image_params": {"steps": 2}} | body)
        asked[name] = Expected(task, ends, runs)
        return task

    await house.poison()
    await expect("two pictures", "completed", image_params={"steps": 2, "num_images": 2})
    await house.launch("first")
    canceled = await expect("canceled while it runs", "canceled", image_params={"steps": 40})
    await expect("fills the other", "completed", model_name=OTHER, image_params={"steps": 8})
    # A consumer that died let go of the runner: these two may find it free.
    waiting = await expect("canceled in the queue", "canceled", "completed", model_name=OTHER)
    await expect("expires", "expired", "completed", model_name=OTHER, start_within=2)
    twice = await expect("with a lora", "completed", loras=["night"])
    await house.append(twice)
    await expect("fails once", "completed", runs=2)
    await expect("fails always", "failed", runs=3)
    await house.wait(0.7)
    await house.cancel(waiting)
    await house.wait(1)
    await house.cancel(canceled)
    refused = twice.model_copy(update={"task_id": uuid.uuid4().hex, "loras": (Lora(name="nope"),)})
    asked["asks for a lora there is not"] = Expected(refused, ("failed",), 0)
    await house.append(refused)
    await house.wait(0.8)
    await house.launch("second")
    await expect("busy once", "completed")
    await expect("runs at the second", "completed", model_name=OTHER, image_params={"steps": 14})
    await house.wait(3)
    await house.leave("second")
    await expect("after the rebalance", "completed", model_name=OTHER)
    await house.wait(4)
    return asked


class MoodyRunner(MemoryRunner):
    """Fails as the prompt tells it to."""

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
                raise GenerationFailed("It was told to.")
            yield frame
