"""The engine with room for four images, compared with one image at a time, on the miniature of Stable Diffusion."""

import random
import statistics
import tempfile
import threading
import time
from collections import deque
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from config.settings import Settings
from runners.batch import Emit
from runners.engine import Engine
from runners.loading import Model, load
from runners.model_folder import inspect
from runners.warm_up import warm_up, warm_up_request
from tasks.errors import RunnerBusy
from tasks.runner_api import End, Frame, RunRequest, Step
from tools.bench.stage import percentile, row, title
from tools.miniatures.build import build_minis

IMAGES = 16
ARRIVALS = 60
STEPS = 6
LOAD = 0.7
"""The rate of arrivals, as a share of the rate at which the engine finishes tasks one at a time."""


def measure() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        build_minis(Path(folder))
        model = load(inspect(Path(folder), "sd-mini"), Settings(runner_device="cpu"))
    pixels = model.facts.width * model.facts.height
    engines = {rows: Engine(_with_room(model, rows * pixels), time.monotonic) for rows in (1, 4)}
    for engine in engines.values():
        warm_up(engine, [warm_up_request(model.facts, STEPS)])
    # In turns, twice, so that other load on the machine affects both alike.
    speeds: dict[int, list[float]] = {1: [], 4: []}
    for _ in range(2):
        for rows, engine in engines.items():
            ended = _serve(engine, model, [0.0] * IMAGES)
            speeds[rows].append(IMAGES / max(ended))
    speed = {rows: statistics.mean(measured) for rows, measured in speeds.items()}
    rng = random.Random(1)
    arrivals = [0.0]
    while len(arrivals) < ARRIVALS:
        arrivals.append(arrivals[-1] + rng.expovariate(LOAD * speed[1]))
    times = {}
    for rows, engine in engines.items():
        ended = _serve(engine, model, arrivals)
        times[rows] = [end - came for end, came in zip(ended, arrivals, strict=True)]
    for engine in engines.values():
        engine.close(0)
    title(f"engine, {model.facts.width}x{model.facts.height}, {STEPS} steps, 1 thread")
    row("", "1 at a time", "room for 4", "ratio")
    row(
        "images a second, all submitted at once",
        *(f"{speed[rows]:.2f}" for rows in (1, 4)),
        f"{speed[4] / speed[1]:.2f}",
    )
    for what, of in (("mean", statistics.mean), ("p99", partial(_share, 0.99))):
        seconds = {rows: of(times[rows]) for rows in (1, 4)}
        row(
            f"{what} time in system, Poisson at {LOAD:.0%} of one at a time",
            *(f"{seconds[rows]:.3f} s" for rows in (1, 4)),
            f"{seconds[4] / seconds[1]:.2f}",
        )


def _share(share: float, values: list[float]) -> float:
    return percentile(values, share)


def _with_room(model: Model, pixels: int) -> Model:
    return replace(model, pixel_budget=pixels)


def _serve(engine: Engine, model: Model, arrivals: list[float]) -> list[float]:
    """When each task ended, in seconds from the beginning; `arrivals`: when each is submitted. Tasks for which the
    engine has no room wait in one queue, as in a consumer."""
    began = time.monotonic()
    ended: dict[int, float] = {}
    change = threading.Condition()

    def emit(number: int, frame: Frame) -> None:
        if isinstance(frame, Step | End):
            with change:
                if isinstance(frame, End):
                    ended[number] = time.monotonic() - began
                change.notify()

    queue: deque[int] = deque()
    coming = deque(enumerate(arrivals))
    while len(ended) < len(arrivals):
        now = time.monotonic() - began
        while coming and coming[0][1] <= now:
            queue.append(coming.popleft()[0])
        while queue and _accepted(engine, _request(model, queue[0]), partial(emit, queue[0])):
            queue.popleft()
        with change:
            if len(ended) < len(arrivals):
                change.wait(max(0.0, min(0.05, coming[0][1] - (time.monotonic() - began)) if coming else 0.05))
    return [ended[number] for number in range(len(arrivals))]


def _accepted(engine: Engine, request: RunRequest, emit: Emit) -> bool:
    try:
        engine.submit(request, emit)
    except RunnerBusy:
        return False
    return True


def _request(model: Model, number: int) -> RunRequest:
    return warm_up_request(model.facts, STEPS).model_copy(update={"task_id": f"{number:032x}", "seed": number})
