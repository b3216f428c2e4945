"""The step engine: images join and leave a running batch at any step.

One thread owns the model. Each tick drops canceled tasks, admits waiting tasks up to the pixel budget, runs ONE forward
for a group of images of equal shape and LoRA set, advances each image's own scheduler, reports the steps, and decodes
the finished images. `runners.batch` decides which tasks are admitted and which images share a forward.
"""

import logging
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from runners import encoding, previews
from runners.batch import Batch, Emit, Job, Row
from runners.families.family import Inputs
from runners.families.sample import all_finite
from runners.families.schedulers import SAMPLERS
from runners.loading import Model
from runners.loras import lora_set
from tasks.errors import BrokenPicture, GenerationFailed, OutOfMemory, RanTooLong, RunnerLoading, TaskError
from tasks.runner_api import Accepted, End, Error, Image, Input, Preview, RunRequest, Started, Step
from tasks.task import CONTENT_TYPES, MAX_SEED

logger = logging.getLogger(__name__)

_SMOOTHING = 0.1
"""Weight of the newest tick in the moving average of the speed."""


class Engine:
    """Runs one model."""

    def __init__(
        self,
        model: Model,
        now: Callable[[], float],
        on_tick: Callable[[int, float], None] = lambda *_: None,
        on_crash: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """`now` gives seconds that never go back. `on_tick` is called with the number of images and the seconds of each
        forward, `on_crash` with the internal error that ended the engine's thread."""
        self._on_crash = on_crash
        self.model = model
        self.seconds_per_megapixel_step = 0.0
        self._now = now
        self._on_tick = on_tick
        self._batch = Batch(model.pixel_budget)
        self._tick = 0
        self._closing = False
        self._aborting = False
        self._change = threading.Condition()
        """Guards the batch, which the threads that submit and deliver change as well; notified when there is work."""
        self._encoders = ThreadPoolExecutor(2, "image")
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: RunRequest, emit: Emit, files: Mapping[str, Input] | None = None) -> Job:
        """Accept a task, with the input files that its request names. Raises RunnerBusy when running and waiting tasks
        would exceed twice the pixel budget, and RunnerLoading when the engine is closing."""
        job = Job(request, emit, self._now(), lora_set(request.loras), dict(files or {}))
        with self._change:
            if self._closing:
                raise RunnerLoading("The runner is shutting down.")
            emit(Accepted(waiting=self._batch.add(job)))
            self._change.notify()
        return job

    def load(self) -> tuple[int, int]:
        """The pixels of the running tasks, and how many tasks wait."""
        with self._change:
            return self._batch.running_pixels, self._batch.waiting

    def close(self, grace: float) -> None:
        """Accept no more tasks. The accepted ones get `grace` seconds to end; then they fail with RunnerLoading."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join(grace)
        self._aborting = True
        self._thread.join(5)
        self._encoders.shutdown(wait=True)

    def _work(self) -> None:
        try:
            with torch.inference_mode():
                while self._wait_for_work():
                    self._one_tick()
        except Exception as error:  # noqa: BLE001 - a runner without an engine must not look alive
            self._on_crash(error)

    def _wait_for_work(self) -> bool:
        """Wait until there is a task; False when there is none and the engine is closing."""
        with self._change:
            while not self._batch.jobs:
                if self._closing:
                    return False
                self._change.wait()
        return True

    def _one_tick(self) -> None:
        self._drop_canceled()
        self._fail_overdue()
        self._admit()
        with self._change:
            group = self._batch.next_group()
        if group:
            self._step(group)
        self._prepare_ahead()

    def _drop_canceled(self) -> None:
        with self._change:
            for job in self._batch.jobs:
                if job.canceled:
                    self._batch.remove(job)

    def _fail_overdue(self) -> None:
        """Fail the tasks that have run longer than their limit, and all tasks once the grace of `close` is over."""
        now = self._now()
        with self._change:
            jobs = self._batch.jobs
        for job in jobs:
            limit = job.request.max_runtime
            if self._aborting:
                self._fail(job, RunnerLoading("The runner is shutting down."))
            elif limit is not None and job.began is not None and now - job.began > limit:
                self._fail(job, RanTooLong(f"It was stopped after {limit:g} seconds."))

    def _admit(self) -> None:
        while True:
            with self._change:
                job = self._batch.admit()
            if job is None:
                return
            self._guard(job, self._begin)

    def _begin(self, job: Job) -> None:
        self._prepare(job)
        job.began = self._now()
        job.emit(Started(queued_seconds=round(job.began - job.submitted, 6)))

    def _prepare_ahead(self) -> None:
        """Encode the prompts of the next waiting task while other tasks run, so that it joins without a gap."""
        with self._change:
            job = self._batch.unprepared()
        if job is not None:
            self._guard(job, self._prepare)

    def _prepare(self, job: Job) -> None:
        if job.samples:
            return
        began = self._now()
        family = self.model.family
        self.model.adapters.activate(job.loras)
        inputs = Inputs(job.request.as_drawn, job.request.seed, job.files)
        conditioning = family.encode(inputs)
        for index in range(job.request.num_images):
            job.samples[index] = family.begin(inputs.with_seed(_seed(job, index)), conditioning)
        job.undelivered = job.request.num_images
        job.encoding_seconds = self._now() - began

    def _step(self, group: list[Row]) -> None:
        began = self._now()
        self._tick += 1
        for row in group:
            row.job.last_tick = self._tick
        stepped = self._predict(group)
        self._measure(group, self._now() - began)
        for job in dict.fromkeys(row.job for row in stepped):
            if not job.canceled:
                self._guard(job, self._finish_step)

    def _measure(self, group: list[Row], seconds: float) -> None:
        self._on_tick(len(group), seconds)
        megapixels = sum(row.sample.width * row.sample.height for row in group) / 1e6
        rate, average = seconds / megapixels, self.seconds_per_megapixel_step
        self.seconds_per_megapixel_step = average + _SMOOTHING * (rate - average) if average else rate

    def _predict(self, group: list[Row]) -> list[Row]:
        """One forward, and each image's own scheduler step. A group that fails is tried again in halves, so that only a
        bad image fails, and a group that is too large for the memory runs in parts. Returns the rows that were
        stepped."""
        group = [row for row in group if not row.job.canceled]
        if not group:
            return []
        try:
            self.model.adapters.activate(group[0].job.loras)
            predictions = self.model.family.predict([row.sample for row in group])
        except Exception as error:  # noqa: BLE001 - an error of the model must end its tasks, not the engine
            failure = _as_task_error(error)
            traceback.clear_frames(error.__traceback__)  # frames hold tensors, and the next try needs the memory
            if len(group) == 1:
                self._fail(group[0].job, failure)
                return []
            if isinstance(failure, OutOfMemory) and torch.cuda.is_available():
                torch.cuda.empty_cache()
            middle = len(group) // 2
            return self._predict(group[:middle]) + self._predict(group[middle:])
        for row, prediction in zip(group, predictions, strict=True):
            self._guard(row.job, lambda _, row=row, prediction=prediction: row.sample.advance(prediction))  # type: ignore[misc]
        return group

    def _finish_step(self, job: Job) -> None:
        self._report_step(job)
        self._decode_finished(job)
        if not job.samples:
            with self._change:
                self._batch.remove(job)

    def _report_step(self, job: Job) -> None:
        step = min((sample.step for sample in job.samples.values()), default=0)
        steps = max((sample.steps for sample in job.samples.values()), default=0)
        if step <= job.reported_step:
            return
        job.reported_step = step
        job.emit(Step(step=step, steps=steps))
        if job.request.preview and step < steps:
            self._preview(job, step)

    def _preview(self, job: Job, step: int) -> None:
        matrix, sample, now = self.model.facts.latent_rgb, job.samples.get(0), self._now()
        recent = job.previewed is not None and now - job.previewed < previews.EVERY_SECONDS
        if matrix is None or sample is None or recent:
            return
        job.previewed = now
        image = previews.render(self.model.family.latents(sample), matrix)
        job.emit(Preview(step=step, payload=previews.jpeg(image)))

    def _decode_finished(self, job: Job) -> None:
        finished = [(index, sample) for index, sample in job.samples.items() if sample.step >= sample.steps]
        for index, sample in finished:
            if not all_finite([sample.latents])[0]:
                raise BrokenPicture
            image = self.model.family.decode(sample)
            del job.samples[index]
            self._encoders.submit(self._deliver, job, index, image)

    def _deliver(self, job: Job, index: int, image: Any) -> None:
        try:
            request, seed = job.request, _seed(job, index)
            image = encoding.resized(image, request)
            sampler = SAMPLERS.get(request.scheduler)
            text = encoding.parameters(request, seed, sampler.label if sampler else request.scheduler, request.steps)
            job.emit(
                Image(
                    index=index,
                    content_type=CONTENT_TYPES[request.format],
                    width=image.width,
                    height=image.height,
                    seed=seed,
                    payload=encoding.encode(image, request, seed, text, self.model.acceleration),
                )
            )
            with self._change:
                job.undelivered -= 1
                last = job.undelivered == 0
            if last:
                self._end(job, request.num_images)
        except Exception as error:  # noqa: BLE001 - in the encoders' threads no other code would report it to the task
            self._fail(job, _as_task_error(error))

    def _end(self, job: Job, images: int) -> None:
        job.emit(
            End(
                seconds_loading=round(job.encoding_seconds, 6),
                seconds_generating=round(self._now() - (job.began or job.submitted), 6),
                images=images,
                acceleration=self.model.acceleration,
            )
        )

    def _guard(self, job: Job, work: Callable[[Job], None]) -> None:
        try:
            work(job)
        except Exception as error:  # noqa: BLE001 - an error of the model must end its task, not the engine
            failure = _as_task_error(error)
            traceback.clear_frames(error.__traceback__)
            self._fail(job, failure)

    def _fail(self, job: Job, error: TaskError) -> None:
        with self._change:
            if job.failed:
                return
            job.failed = True
            self._batch.remove(job)
        logger.warning("a task failed: %s", error.detail, extra={"task_id": job.request.task_id})
        job.emit(Error(code=error.code(), message=error.detail))
        self._end(job, 0)


def _seed(job: Job, index: int) -> int:
    """The seed of one image of the task: seeds count up from the request's own."""
    return (job.request.seed + index) % (MAX_SEED + 1)


def _as_task_error(error: Exception) -> TaskError:
    if isinstance(error, TaskError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory()
    return GenerationFailed(f"{type(error).__name__}: {error}")
