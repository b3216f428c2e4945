"""The in-memory twin of a runner: it sends the same frames, step by step, and draws nothing."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from tasks.capabilities import ModelStatus, RunnerDescription, RunnerStatus, ServedModel
from tasks.errors import InvalidRequest, RunnerBusy, RunnerLoading, RunnerLost, TaskError
from tasks.ports import Clock
from tasks.runner_api import Accepted, End, Frame, Image, Input, Preview, RunRequest, Started, Step
from tasks.task import CONTENT_TYPES, MAX_SEED


class MemoryRunner:
    """One runner. `away`, `loading` and `fail_next` make it misbehave. `ran` lists the requests that it began, and
    `dropped` the tasks that a caller canceled."""

    def __init__(
        self, model: ServedModel, clock: Clock, step_seconds: float = 0.1, url: str = "memory://runner"
    ) -> None:
        """A runner that serves `model` and takes `step_seconds` for a step."""
        self._model = model
        self._clock = clock
        self._url = url
        self.step_seconds = step_seconds
        self.away = False
        self.loading = False
        self.fail_next: list[TaskError] = []
        self.preview: Callable[[int], Preview] = lambda step: Preview(step=step, payload=b"\xff\xd8 step %d" % step)
        self.ran: list[RunRequest] = []
        self.running: dict[str, RunRequest] = {}
        self.dropped: list[str] = []

    @property
    def url(self) -> str:
        """See RunnerClient."""
        return self._url

    async def describe(self) -> RunnerDescription:
        """See RunnerClient."""
        if self.away:
            raise RunnerLost
        description = RunnerDescription.of_served(self._model)
        if not self.loading:
            return description
        models = dict.fromkeys(description.status.models, ModelStatus(loaded=False))
        return description.model_copy(update={"status": RunnerStatus(models=models)})

    async def run(self, request: RunRequest, inputs: Sequence[Input] = ()) -> AsyncGenerator[Frame, None]:
        """See RunnerClient."""
        sent = {file.name: file.payload for file in inputs}
        if sent.keys() != set(request.inputs) or not sent.keys() <= set(self._model.inputs):
            takes = f"the inputs {', '.join(self._model.inputs)}" if self._model.inputs else "no inputs"
            raise InvalidRequest(f"{self._model.model} takes {takes}.", field="inputs")
        if self.away:
            raise RunnerLost
        if self.loading:
            raise RunnerLoading
        pixels = sum(request.pixels for request in self.running.values())
        if self.running and pixels >= 2 * self._model.pixel_budget:
            raise RunnerBusy
        self.ran.append(request)
        self.running[request.task_id] = request
        ended = False
        try:
            yield Accepted(waiting=0)
            yield Started(queued_seconds=0.0)
            for step in range(1, request.steps + 1):
                await self._clock.sleep(self.step_seconds)
                if self.away:
                    raise RunnerLost
                if self.fail_next:
                    raise self.fail_next.pop(0)
                yield Step(step=step, steps=request.steps)
                if request.preview:
                    yield self.preview(step)
            for index in range(request.num_images):
                yield Image(
                    index=index,
                    content_type=CONTENT_TYPES[request.format],
                    width=request.width,
                    height=request.height,
                    seed=(request.seed + index) % (MAX_SEED + 1),
                    payload=image_file(request, index, sent),
                )
            ended = True
            generating = self.step_seconds * request.steps
            yield End(seconds_loading=0.0, seconds_generating=generating, images=request.num_images)
        except (asyncio.CancelledError, GeneratorExit):
            if not ended:
                self.dropped.append(request.task_id)
            raise
        finally:
            self.running.pop(request.task_id, None)


def image_file(request: RunRequest, index: int, inputs: Mapping[str, bytes]) -> bytes:
    """The twin's image file: bytes that depend on everything that a real image depends on."""
    drawing = request.model_dump_json(exclude={"task_id", "attempt", "metadata", "max_runtime"})
    files = b"".join(inputs[name] for name in sorted(inputs))
    return hashlib.sha256(f"{drawing}/{index}".encode() + files).digest()
