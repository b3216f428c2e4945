"""Users of the service during a soak: they submit, wait, follow, cancel and fetch, and retry when refused."""

import asyncio
import json
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

from tests.proofs.soak.ledger import Body, Ledger
from tests.proofs.soak.pictures import picture_error
from tests.proofs.soak.service import MODELS

TIMEOUT = httpx.Timeout(12.0, connect=3.0)
"""The timeouts of a client in seconds: a stopped gateway does not answer."""
_RETRY_SECONDS = (0.2, 1.0)
Headers = Mapping[str, str]
NONE: Headers = {}
WAIT: Headers = {"Prefer": "wait=5"}
PROMPTS = tuple(
    f"a {colour} {shape} on a {ground} background"
    for colour, shape, ground in (
        ("red", "circle", "blue"),
        ("green", "star", "black"),
        ("yellow", "square", "white"),
        ("blue", "triangle", "yellow"),
    )
)
LORAS = ((), (), (), ({"name": "night", "weight": 0.5},), ({"name": "outline", "weight": 1.0},))
STEPS = (2, 4, 4, 8, 8, 20, 80)
"""Mostly short, so that many tasks complete; a few long ones, so that a kill hits them while they run."""


class Users:
    """All users of one soak. They write one ledger."""

    def __init__(self, url: str, seed: int, count: int) -> None:
        """`count` users, who begin nothing new after `stop`."""
        self.ledger = Ledger()
        self._url = url
        self._seed = seed
        self._count = count
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Return when every user knows how each of their tasks ended and has the pictures."""
        limits = httpx.Limits(max_connections=None, keepalive_expiry=4)
        async with httpx.AsyncClient(base_url=self._url, timeout=TIMEOUT, limits=limits) as client:
            await asyncio.gather(
                *(
                    _User(f"user-{n}", random.Random(f"{self._seed}/{n}"), client, self.ledger, self._stopping).run()
                    for n in range(self._count)
                )
            )

    def stop(self) -> None:
        """Let every user finish what they began."""
        self._stopping.set()


class _User:
    def __init__(
        self, name: str, rng: random.Random, client: httpx.AsyncClient, ledger: Ledger, stopping: asyncio.Event
    ) -> None:
        self._name = name
        self._rng = rng
        self._client = client
        self._ledger = ledger
        self._stopping = stopping

    async def run(self) -> None:
        habits: dict[Callable[[], Awaitable[None]], int] = {
            self._submit_and_poll: 4,
            self._submit_and_wait: 3,
            self._submit_for_an_image: 3,
            self._submit_and_follow: 3,
            self._submit_and_cancel: 3,
            self._submit_with_a_deadline: 1,
            self._submit_many: 1,
            self._submit_once: 2,
        }
        while not self._stopping.is_set():
            habit = self._rng.choices(list(habits), list(habits.values()))[0]
            await habit()
            self._ledger.done[habit.__name__.removeprefix("_").replace("_", " ")] += 1
            await asyncio.sleep(self._rng.uniform(0, 0.5))

    async def _submit_and_poll(self) -> None:
        await self._poll(await self._submit(self._body()))

    async def _submit_and_wait(self) -> None:
        task_id = await self._submit(self._body(), headers=WAIT)
        await self._until_ended(task_id, WAIT)
        await self._fetch(task_id)

    async def _submit_for_an_image(self) -> None:
        body, key = self._body(), uuid.uuid4().hex
        headers = {**WAIT, "Accept": "image/*", "Idempotency-Key": key}
        answer = await self._answer("POST", "/generate_image", self._ledger.refused, body, headers)
        # A second request with the same key must lead to the same task.
        task_id = await self._submit(body, key=key)
        if answer is not None and answer.headers.get("content-type") == "image/png":
            if answer.headers["x-task-id"] != task_id:
                self._problem(f"the Idempotency-Key {key} led to {answer.headers['x-task-id']} and to {task_id}")
            self._check(answer.content, task_id, body)
        await self._poll(task_id)

    async def _submit_and_follow(self) -> None:
        task_id = await self._submit(self._body())
        while not await self._listen(task_id):
            await self._pause()
        await self._fetch(task_id)

    async def _submit_and_cancel(self) -> None:
        task_id = await self._submit(self._body())
        await asyncio.sleep(self._rng.choice((0, 0.1, 1.0)))
        while True:
            answer = await self._answer("POST", f"/cancel_task/{task_id}", self._ledger.unanswered)
            if answer is not None:
                if answer.status_code not in (200, 202, 409):
                    self._problem(f"a cancel of {task_id} was answered {answer.status_code}: {answer.text[:300]}")
                break
            await self._pause()
        await self._poll(task_id)

    async def _submit_with_a_deadline(self) -> None:
        await self._poll(await self._submit(self._body() | {"start_within": self._rng.choice((0.05, 2.0, 10.0))}))

    async def _submit_many(self) -> None:
        tasks = [await self._submit(self._body()) for _ in range(6)]
        for task_id in tasks:
            await self._poll(task_id)

    async def _submit_once(self) -> None:
        """Submit without an Idempotency-Key: if the answer is lost, no user knows the task."""
        body = self._body()
        answer = await self._answer("POST", "/generate_image", Counter(), body)
        if answer is None:
            self._ledger.unknown.append(body)
        elif answer.status_code == 202:
            task_id = answer.json()["task_id"]
            self._ledger.accept(task_id, body)
            await self._poll(task_id)
        else:
            self._problem(f"a submit was answered {answer.status_code}: {answer.text[:300]}")

    def _body(self) -> dict[str, Any]:
        rng = self._rng
        return {
            "model_name": rng.choice(MODELS),
            "prompt": rng.choice(PROMPTS),
            "image_params": {
                "width": 64,
                "height": 64,
                "steps": rng.choice(STEPS),
                "seed": rng.randrange(4),
                "num_images": rng.choice((1, 1, 1, 2)),
            },
            "loras": list(rng.choice(LORAS)),
            "user_id": self._name,
            "topic": rng.choice(("online_task", "online_task", "batch_task")),
        }

    async def _submit(self, body: Body, key: str | None = None, headers: Headers = NONE) -> str:
        headers = {**headers, "Idempotency-Key": key or uuid.uuid4().hex}
        while True:
            answer = await self._answer("POST", "/generate_image", self._ledger.refused, body, headers)
            if answer is not None:
                if answer.status_code in (200, 202):
                    document = answer.json()
                    self._ledger.accept(document["task_id"], body)
                    self._ledger.report(document["task_id"], document["status"])
                    return str(document["task_id"])
                self._problem(f"a submit was answered {answer.status_code}: {answer.text[:300]}")
            await self._pause()

    async def _poll(self, task_id: str) -> None:
        await self._until_ended(task_id)
        await self._fetch(task_id)

    async def _until_ended(self, task_id: str, headers: Headers = NONE) -> None:
        while True:
            answer = await self._answer("GET", f"/check_status/{task_id}", self._ledger.unanswered, headers=headers)
            if answer is not None:
                if answer.status_code != 200:
                    self._problem(f"the status of {task_id} was answered {answer.status_code}: {answer.text[:300]}")
                elif self._ledger.report(task_id, answer.json()["status"]):
                    return
            await self._pause()

    async def _listen(self, task_id: str) -> bool:
        try:
            async with self._client.stream("GET", f"/events/{task_id}", timeout=20) as answer:
                if answer.status_code == 503:
                    self._ledger.unanswered["503"] += 1
                    return False
                if answer.status_code != 200:
                    self._problem(f"the events of {task_id} were answered {answer.status_code}")
                async for line in answer.aiter_lines():
                    if line.startswith("data: ") and self._ledger.report(task_id, _json(line)["status"]):
                        return True
        except httpx.TransportError as error:
            self._ledger.unanswered[type(error).__name__] += 1
        return False

    async def _fetch(self, task_id: str) -> None:
        if self._ledger.ends[task_id] != "completed":
            return
        body = self._ledger.accepted[task_id]
        index = self._rng.randrange(body["image_params"]["num_images"])
        while True:
            answer = await self._answer("GET", f"/get_image/{task_id}?index={index}", self._ledger.unanswered)
            if answer is not None and answer.status_code == 200:
                self._check(answer.content, task_id, body)
                return
            if answer is not None:
                self._problem(
                    f"picture {index} of completed {task_id} was answered {answer.status_code}: {answer.text[:300]}"
                )
                return
            await self._pause()

    async def _answer(
        self, method: str, path: str, lost: Counter[str], body: Body | None = None, headers: Headers = NONE
    ) -> httpx.Response | None:
        """The answer; None, counted in `lost`, if there was none or if it was a 503 that says when to retry."""
        try:
            answer = await self._client.request(method, path, json=body, headers=headers)
        except httpx.TransportError as error:
            lost[type(error).__name__] += 1
            return None
        if answer.status_code != 503:
            return answer
        lost["503"] += 1
        if "retry-after" not in answer.headers:
            self._problem(f"{method} {path} was answered 503 without Retry-After: {answer.text[:300]}")
        return None

    def _check(self, picture: bytes, task_id: str, body: Body) -> None:
        if error := picture_error(picture, task_id, body):
            self._problem(error)

    def _problem(self, sentence: str) -> None:
        self._ledger.problems.append(sentence)

    async def _pause(self) -> None:
        await asyncio.sleep(self._rng.uniform(*_RETRY_SECONDS))


def _json(line: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(line.removeprefix("data: "))
    return document
