"""Miniatures with random weights: each is loaded by the engine and, for comparison, as a diffusers pipeline."""

from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from time import monotonic
from typing import Any

import pytest

from config.settings import Settings
from tasks.runner_api import End, Frame, Image, RunRequest, Step

FAMILIES = ("sd-mini", "flux-mini")
SCHEDULER = {"sd-mini": "ddim", "flux-mini": "flow_euler"}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tools.miniatures.build import build_minis

    into = tmp_path_factory.mktemp("model_cache")
    build_minis(into)
    return into


class Bench:
    """An engine with a miniature, and the diffusers pipeline of the same folder."""

    def __init__(self, cache: Path, name: str) -> None:
        from diffusers import DiffusionPipeline

        from runners.engine import Engine
        from runners.loading import load
        from runners.model_folder import inspect

        self.name = name
        self.model = load(inspect(cache, name), Settings(runner_device="cpu"))  # type: ignore[call-arg]
        self.rows: list[int] = []
        self.engine = Engine(self.model, monotonic, lambda rows, _: self.rows.append(rows))
        self.pipe: Any = DiffusionPipeline.from_pretrained(cache / name, local_files_only=True)
        self.pipe.set_progress_bar_config(disable=True)

    def request(self, **fields: Any) -> RunRequest:
        base = {
            "task_id": "0" * 32,
            "model_name": self.name,
            "prompt": "a red circle",
            "width": 64,
            "height": 64,
        }
        base |= {
            "steps": 6,
            "guidance_scale": 5.0,
            "seed": 1,
            "scheduler": SCHEDULER[self.name],
        }
        return RunRequest.model_validate(base | fields)

    def submit(self, request: RunRequest, at_step: dict[int, Callable[[], None]] | None = None) -> "Submitted":
        submitted = Submitted()

        def emit(frame: Frame) -> None:
            if isinstance(frame, Step) and at_step and frame.step in at_step:
                at_step[frame.step]()
            submitted.queue.put(frame)

        submitted.job = self.engine.submit(request, emit)
        return submitted


class Submitted:
    """A task submitted to the engine, and the frames of its answer."""

    def __init__(self) -> None:
        self.queue: Queue[Frame] = Queue()
        self.job: Any = None

    def frames(self) -> list[Frame]:
        """Every frame until End."""
        frames: list[Frame] = []
        while not frames or not isinstance(frames[-1], End):
            frames.append(self.queue.get(timeout=60))
        return frames

    def picture(self) -> bytes:
        return next(frame.payload for frame in self.frames() if isinstance(frame, Image))


@pytest.fixture(scope="session", params=FAMILIES)
def bench(request: pytest.FixtureRequest, cache: Path) -> Iterator[Bench]:
    bench = Bench(cache, request.param)
    yield bench
    bench.engine.close(5)
