"""The first tasks of a loaded model. They load kernels, measure the speed, and find a broken model early."""

import threading
from collections.abc import Sequence

from runners.engine import Engine
from runners.families import ModelFacts
from tasks.errors import GenerationFailed
from tasks.runner_api import End, Error, Frame, RunRequest


def warm_up_request(facts: ModelFacts, steps: int) -> RunRequest:
    """A task of the model's default size."""
    return RunRequest(
        task_id="warm-up",
        model_name="warm-up",
        prompt="a red circle",
        width=facts.width,
        height=facts.height,
        steps=steps,
        guidance_scale=facts.guidance_scale,
        seed=0,
        scheduler=facts.schedulers[0],
    )


def warm_up(engine: Engine, requests: Sequence[RunRequest]) -> None:
    """Run these requests one after another and wait for each. Raises GenerationFailed."""
    for request in requests:
        ended = threading.Event()
        problems: list[str] = []

        def emit(frame: Frame, ended: threading.Event = ended, problems: list[str] = problems) -> None:
            if isinstance(frame, Error):
                problems.append(f"{frame.code}: {frame.message}")
            if isinstance(frame, End):
                ended.set()

        engine.submit(request, emit)
        ended.wait()
        if problems:
            raise GenerationFailed(problems[0])
