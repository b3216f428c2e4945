"""The runner's in-memory twin: it draws nothing, but behaves like one, step by step, when told."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator

from tasks.errors import RunnerBusy, RunnerLoading, RunnerLost, TaskError
from tasks.frames import Frame
from tasks.ports import Clock
from tasks.run import RunnerCard, RunRequest
from tasks.task import CONTENT_TYPES


class MemoryRunner:
    """One runner. `away`, `loading` and `fail_next` make it misbehave; `ran` lists the requests it began."""

    def __init__(self, card: RunnerCard, clock: Clock, step_seconds: float = 0.1, url: str = "memory://runner") -> None:
        """A runner that does what the card says, a step in `step_seconds`."""
        self._card = card
        self._clock = clock
        self._url = url
        self.step_seconds = step_seconds
        self.away = False
        self.loading = False
        self.fail_next: list[TaskError] = []
        self.ran: list[RunRequest] = []
        self.running: dict[str, RunRequest] = {}
        self.dropped: list[str] = []

    @property
    def url(self) -> str:
        """See RunnerClient."""
        return self._url

    async def card(self) -> RunnerCard:
        """See RunnerClient."""
        if self.away:
            raise RunnerLost
        if self.loading:
            raise RunnerLoading
        return self._card

    async def run(self, request: RunRequest) -> AsyncGenerator[Frame, None]:
        """See RunnerClient."""
        if self.away:
            raise RunnerLost
        if self.loading:
            raise RunnerLoading
        pixels = sum(r.width * r.height * r.num_images for r in self.running.values())
        if self.running and pixels >= 2 * self._card.pixel_budget:
            raise RunnerBusy
        self.ran.append(request)
        self.running[request.task_id] = request
        ended = False
        try:
            yield Frame("accepted", {"waiting": 0})
            yield Frame("started", {"queued_seconds": 0.0})
            for step in range(1, request.steps + 1):
                await self._clock.sleep(self.step_seconds)
                if self.away:
                    raise RunnerLost
                if self.fail_next:
                    raise self.fail_next.pop(0)
                yield Frame("step", {"step": step, "steps": request.steps})
            for index in range(request.num_images):
                picture = _picture(request, index)
                header = {"index": index, "content_type": CONTENT_TYPES[request.format], "seed": request.seed + index}
                yield Frame("image", {**header, "width": request.width, "height": request.height}, picture)
            ended = True
            generating = self.step_seconds * request.steps
            yield Frame("end", {"seconds_loading": 0.0, "seconds_generating": generating, "images": request.num_images})
        except (asyncio.CancelledError, GeneratorExit):
            if not ended:
                self.dropped.append(request.task_id)
            raise
        finally:
            self.running.pop(request.task_id, None)


def _picture(request: RunRequest, index: int) -> bytes:
    """Bytes that depend on all that a real picture depends on."""
    asked = request.model_dump_json(exclude={"task_id", "attempt", "metadata", "max_runtime"})
    return hashlib.sha256(f"{asked}/{index}".encode()).digest()
