"""The step engine: pictures join and leave a running batch at any step.

One thread owns the model. Each tick it drops what was canceled, admits waiting jobs up to the pixel budget, runs ONE
forward for a group of samples of equal shape and LoRA set, advances each sample's own scheduler, reports, and decodes
what is finished.
"""

import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from runners import encoding, previews
from runners.families.sample import Sample, all_finite
from runners.families.schedulers import SAMPLERS
from runners.loading import Model
from runners.loras import LoraSet, lora_set
from tasks.errors import BrokenPicture, GenerationFailed, OutOfMemory, RanTooLong, RunnerBusy, RunnerLoading, TaskError
from tasks.run import RunRequest
from tasks.task import CONTENT_TYPES, MAX_SEED

log = logging.getLogger(__name__)

Emit = Callable[..., None]
"""(kind, payload=b"", **header): called from the engine's threads."""
_SMOOTHING = 0.1
"""Weight of the newest tick in the moving average of the speed."""


@dataclass(eq=False)
class Job:
    """One task at the engine: as many samples as it has pictures."""

    request: RunRequest
    emit: Emit
    submitted: float
    loras: LoraSet
    samples: dict[int, Sample] = field(default_factory=dict)
    began: float | None = None
    encoding_seconds: float = 0.0
    last_tick: int = -1
    reported: int = 0
    undelivered: int = 0
    canceled: bool = False
    failed: bool = False

    @property
    def pixels(self) -> int:
        """What it takes of the budget."""
        return self.request.width * self.request.height * self.request.num_images

    def cancel(self) -> None:
        """Nobody wants it any more; the engine drops it before its next step."""
        self.canceled = True


class Engine:
    """Runs one model."""

    def __init__(
        self,
        model: Model,
        now: Callable[[], float],
        on_tick: Callable[[int, float], None] = lambda *_: None,
        on_crash: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """`now` gives seconds that never go back; `on_tick` is told samples and seconds of each forward, `on_crash` the
        mistake of ours that ended the engine's thread."""
        self._on_crash = on_crash
        self.model = model
        self.seconds_per_megapixel_step = 0.0
        self._now = now
        self._on_tick = on_tick
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._tick = 0
        self._closing = False
        self._aborting = False
        self._change = threading.Condition()
        self._encoders = ThreadPoolExecutor(2, "picture")
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: RunRequest, emit: Emit) -> Job:
        """Take a task. Raises RunnerBusy when as much waits already as runs at once, RunnerLoading when closing."""
        job = Job(request, emit, self._now(), lora_set(request.loras))
        with self._change:
            if self._closing:
                raise RunnerLoading("The runner is shutting down.")
            taken = sum(one.pixels for one in (*self._running, *self._waiting))
            if taken and taken + job.pixels > 2 * self.model.pixel_budget:
                raise RunnerBusy
            self._waiting.append(job)
            emit("accepted", waiting=len(self._waiting) - 1)
            self._change.notify()
        return job

    def load(self) -> tuple[int, int]:
        """Pixels running, and tasks waiting."""
        with self._change:
            return sum(job.pixels for job in self._running), len(self._waiting)

    def close(self, grace: float) -> None:
        """Take nothing more; give what is there `grace` seconds to end, then end it with RunnerLoading."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join(grace)
        self._aborting = True
        self._thread.join(5)
        self._encoders.shutdown(wait=True)

    def _work(self) -> None:
        try:
            self._ticks()
        except Exception as error:  # noqa: BLE001 - a runner without an engine must not look alive
            self._on_crash(error)

    def _ticks(self) -> None:
        with torch.inference_mode():
            while True:
                with self._change:
                    while not (self._waiting or self._running):
                        if self._closing:
                            return
                        self._change.wait()
                self._one_tick()

    def _one_tick(self) -> None:
        self._sweep()
        self._admit()
        group = self._next_group()
        if group:
            self._step(group)
        self._prepare_ahead()

    def _sweep(self) -> None:
        with self._change:
            for job in [job for job in (*self._running, *self._waiting) if job.canceled]:
                self._remove(job)
        if self._aborting:
            for job in (*self._running, *self._waiting):
                self._fail(job, RunnerLoading("The runner is shutting down."))
        now = self._now()
        for job in tuple(self._running):
            limit = job.request.max_runtime
            if limit is not None and job.began is not None and now - job.began > limit:
                self._fail(job, RanTooLong(f"It was stopped after {limit:g} seconds."))

    def _admit(self) -> None:
        while self._waiting:
            job = self._waiting[0]
            used = sum(one.pixels for one in self._running)
            if used and used + job.pixels > self.model.pixel_budget:
                return
            with self._change:
                self._waiting.popleft()
                self._running.append(job)
            self._guard(job, self._begin)

    def _begin(self, job: Job) -> None:
        self._prepare(job)
        job.began = self._now()
        job.emit("started", queued_seconds=round(job.began - job.submitted, 6))

    def _prepare_ahead(self) -> None:
        """What a waiting job needs before its first step is made while others step, so that it joins without a gap."""
        job = next((job for job in self._waiting if not job.samples), None)
        if job is not None:
            self._guard(job, self._prepare)

    def _prepare(self, job: Job) -> None:
        if job.samples:
            return
        began = self._now()
        request = job.request
        self.model.adapters.activate(job.loras)
        conditioning = self.model.family.encode(request)
        for index in range(request.num_images):
            seed = (request.seed + index) % (MAX_SEED + 1)
            job.samples[index] = self.model.family.begin(request, conditioning, seed)
        job.undelivered = request.num_images
        job.encoding_seconds = self._now() - began

    def _next_group(self) -> list[tuple[Job, int, Sample]]:
        """The samples that may share a forward, of the group that has waited longest."""
        groups: dict[Any, list[tuple[Job, int, Sample]]] = {}
        for job in self._running:
            for index, sample in job.samples.items():
                groups.setdefault((sample.shape, _layout(sample), job.loras), []).append((job, index, sample))
        if not groups:
            return []
        return min(groups.values(), key=lambda group: max(job.last_tick for job, _, _ in group))

    def _step(self, group: list[tuple[Job, int, Sample]]) -> None:
        began = self._now()
        self._tick += 1
        for job, _, _ in group:
            job.last_tick = self._tick
        stepped = self._predict(group)
        seconds = self._now() - began
        self._on_tick(len(group), seconds)
        megapixels = sum(sample.width * sample.height for _, _, sample in group) / 1e6
        rate, known = seconds / megapixels, self.seconds_per_megapixel_step
        self.seconds_per_megapixel_step = known + _SMOOTHING * (rate - known) if known else rate
        for job in dict.fromkeys(job for job, _, _ in stepped):
            if job in self._running:
                self._guard(job, self._finish_steps)

    def _predict(self, group: list[tuple[Job, int, Sample]]) -> list[tuple[Job, int, Sample]]:
        """One forward and each sample's own step. A group that fails is tried in halves, so that a bad sample, or one
        too many for the memory, fails alone."""
        group = [one for one in group if not one[0].canceled]
        if not group:
            return []
        try:
            self.model.adapters.activate(group[0][0].loras)
            predictions = self.model.family.predict([sample for _, _, sample in group])
        except Exception as error:  # noqa: BLE001 - whatever a model raises is its tasks' outcome, never the engine's end
            found = _as_task_error(error)
            traceback.clear_frames(error.__traceback__)  # frames hold tensors, and the next try needs the memory
            if len(group) == 1:
                self._fail(group[0][0], found)
                return []
            if isinstance(found, OutOfMemory) and torch.cuda.is_available():
                torch.cuda.empty_cache()
            middle = len(group) // 2
            return self._predict(group[:middle]) + self._predict(group[middle:])
        for (job, _, sample), prediction in zip(group, predictions, strict=True):
            self._guard(job, lambda _, sample=sample, prediction=prediction: sample.advance(prediction))  # type: ignore[misc]
        return group

    def _finish_steps(self, job: Job) -> None:
        step = min((sample.step for sample in job.samples.values()), default=0)
        steps = max((sample.steps for sample in job.samples.values()), default=0)
        if step > job.reported:
            job.reported = step
            job.emit("step", step=step, steps=steps)
            if job.request.preview and step < steps:
                job.emit(
                    "preview", previews.jpeg(self.model.family.preview(next(iter(job.samples.values())))), step=step
                )
        finished = [(index, sample) for index, sample in job.samples.items() if sample.step >= sample.steps]
        for index, sample in finished:
            if not all_finite([sample.latents])[0]:
                raise BrokenPicture
            image = self.model.family.decode(sample)
            del job.samples[index]
            self._encoders.submit(self._deliver, job, index, image, sample.steps)
        if not job.samples:
            with self._change:
                self._remove(job)

    def _deliver(self, job: Job, index: int, image: Any, steps: int) -> None:
        try:
            request = job.request
            seed = (request.seed + index) % (MAX_SEED + 1)
            sampler = SAMPLERS.get(request.scheduler)
            told = encoding.parameters(request, seed, sampler.label if sampler else request.scheduler, request.steps)
            data = encoding.encode(image, request, seed, told, self.model.acceleration)
            job.emit(
                "image",
                data,
                index=index,
                content_type=CONTENT_TYPES[request.format],
                width=image.width,
                height=image.height,
                seed=seed,
            )
            with self._change:
                job.undelivered -= 1
                last = job.undelivered == 0
            if last:
                self._end(job, request.num_images)
        except Exception as error:  # noqa: BLE001 - the last stop before the picture's task: it must hear of it
            self._fail(job, _as_task_error(error))

    def _end(self, job: Job, images: int) -> None:
        job.emit(
            "end",
            seconds_loading=round(job.encoding_seconds, 6),
            seconds_generating=round(self._now() - (job.began or job.submitted), 6),
            images=images,
            acceleration=self.model.acceleration,
        )

    def _guard(self, job: Job, work: Callable[[Job], None]) -> None:
        try:
            work(job)
        except Exception as error:  # noqa: BLE001 - whatever a model raises is its task's outcome, never the engine's end
            found = _as_task_error(error)
            traceback.clear_frames(error.__traceback__)
            self._fail(job, found)

    def _fail(self, job: Job, error: TaskError) -> None:
        with self._change:
            if job.failed:
                return
            job.failed = True
            self._remove(job)
        log.warning("a task failed: %s", error.detail, extra={"task_id": job.request.task_id})
        job.emit("error", code=error.code(), message=error.detail)
        self._end(job, 0)

    def _remove(self, job: Job) -> None:
        job.samples.clear()
        job.canceled = True
        if job in self._running:
            self._running.remove(job)
        if job in self._waiting:
            self._waiting.remove(job)


def _layout(sample: Sample) -> tuple[tuple[int, ...], ...]:
    """The shapes of its inputs: prompts of different length do not fit into one tensor."""
    return tuple(tuple(value.shape) for value in sample.conditioning.positive.values())


def _as_task_error(error: Exception) -> TaskError:
    if isinstance(error, TaskError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory()
    return GenerationFailed(f"{type(error).__name__}: {error}")


def warm_up(engine: Engine, requests: Sequence[RunRequest]) -> None:
    """Run these and wait: it loads kernels, measures the speed, and shows a broken model now. Raises TaskError."""
    for request in requests:
        ended = threading.Event()
        problems: list[str] = []

        def emit(
            kind: str, payload: bytes = b"", ended: threading.Event = ended, problems: list[str] = problems, **told: Any
        ) -> None:
            if kind == "error":
                problems.append(f"{told['code']}: {told['message']}")
            if kind == "end":
                ended.set()

        engine.submit(request, emit)
        ended.wait()
        if problems:
            raise GenerationFailed(problems[0])
