"""Gateways on twins, called through their real ASGI app: one broker, one store, and tasks that a test ends itself."""

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from adapters.clock import ManualClock, settle
from adapters.memory_log import MemoryBroker, MemoryLog
from adapters.memory_store import MemoryStore
from config.settings import Settings
from functions.api.app import GatewayApp, build_gateway
from tasks.events import EndStatus, Outcome, Progress, Started, StoredImage, TaskFailure
from tasks.preview import Preview
from tasks.task import Task
from tests.support.world import card

SETTINGS = Settings()
PICTURE = bytes(range(200))
BODY: Mapping[str, Any] = {"model_name": "sd-mini", "prompt": "a red circle"}


@dataclass
class GatewayWorld:
    """The broker and the store behind the gateways, and the clients before them."""

    clock: ManualClock = field(default_factory=ManualClock)
    store: MemoryStore = field(default_factory=MemoryStore)
    settings: Settings = SETTINGS

    def __post_init__(self) -> None:
        """A broker that knows one model."""
        self.broker = MemoryBroker(self.settings.lane_names, self.clock)
        self.log = MemoryLog(self.broker)
        self._stack = contextlib.AsyncExitStack()
        self._attempts = itertools.count(1)

    async def gateway(self) -> tuple[httpx.AsyncClient, GatewayApp]:
        """Start one more gateway, and a client of it."""
        gateway = build_gateway(self.settings, task_log=MemoryLog(self.broker), store=self.store, clock=self.clock)
        await self._stack.enter_async_context(gateway.app.router.lifespan_context(gateway.app))
        transport = httpx.ASGITransport(gateway.app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")
        await self._stack.enter_async_context(client)
        await settle()
        return client, gateway

    async def close(self) -> None:
        """End every gateway."""
        await self._stack.aclose()

    def tasks(self) -> list[Task]:
        """Every task on a lane, in the order of its partition."""
        lanes = [self.broker.topics[lane] for lane in self.settings.lane_names]
        records = [record for lane in lanes for partition in lane.values() for record in partition]
        return [Task.model_validate_json(record.value) for record in records]

    def cancels(self) -> int:
        """How many cancels were requested."""
        events = self.broker.topics[self.log.events_topic].values()
        return sum(b'"cancel_requested"' in r.value for run in events for r in run)

    async def run(self, task: Task, step: int = 0) -> None:
        """Write the events of a running task, at this step."""
        partition = self.broker.partition_of(task.model_name)
        at, steps = self.clock.now(), task.image_params.steps
        await self.log.append_event(Started(task_id=task.task_id, at=at, attempt=1, owner="o"), partition)
        if step:
            self.log.emit(
                Progress(task_id=task.task_id, at=at, attempt=1, owner="o", step=step, steps=steps), partition
            )
        await settle()

    async def preview(self, task: Task, step: int = 1, attempt: int = 1, image: bytes = b"\xff\xd8preview") -> Preview:
        """Emit a preview of the task, as its owner does."""
        steps, at = task.image_params.steps, self.clock.now()
        preview = Preview(task_id=task.task_id, attempt=attempt, owner="o", step=step, steps=steps, at=at, image=image)
        self.log.emit_preview(preview)
        await settle()
        return preview

    async def end(
        self,
        task: Task,
        status: EndStatus = "completed",
        code: str = "",
        *,
        announced: bool = True,
        picture: bytes = PICTURE,
    ) -> Outcome:
        """End the task as its owner does. Not `announced`: in the store only, as when the log no longer holds the task."""
        image = StoredImage(
            key=f"tasks/{task.task_id}/1-0.png",
            content_type="image/png",
            size=len(picture),
            sha256=hashlib.sha256(picture).hexdigest(),
            width=64,
            height=64,
            seed=task.image_params.seed,
        )
        if status == "completed":
            await self.store.put_image(image.key, picture, "image/png")
        outcome = Outcome(
            task_id=task.task_id,
            at=self.clock.now(),
            status=status,
            tries=1,
            task=task,
            images=(image,) if status == "completed" else (),
            error=TaskFailure(code=code, message=f"It is {code}.") if code else None,
        )
        await self.store.put_outcome(outcome)
        if announced:
            await self.log.append_event(outcome, self.broker.partition_of(task.model_name))
        await settle()
        return outcome


@contextlib.asynccontextmanager
async def world(**settings: object) -> AsyncIterator[GatewayWorld]:
    """A world with one model. Its gateways end with the context."""
    made = GatewayWorld(settings=SETTINGS.model_copy(update=settings))
    await made.log.append_card(card(aliases=("stable-diffusion-v1-5",)))
    try:
        yield made
    finally:
        await made.close()


def is_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The answer's problem document. Fails where it is not a complete one of this status and code."""
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["detail"]
    assert problem["type"] == f"/docs/errors#{code}"
    return problem


async def until_waiting(gateway: GatewayApp) -> None:
    """Return when a caller waits for a task."""
    async with asyncio.timeout(5):
        while not gateway.index.waiting:
            await asyncio.sleep(0)
    await settle()
