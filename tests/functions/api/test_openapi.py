"""The OpenAPI document against the answers: every answer is documented, and every documented answer is given."""

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from adapters.clock import settle
from functions.api.api_keys import new_key
from functions.api.app import GatewayApp
from functions.api.gateway import Gateway
from functions.status.document import TaskStatus
from functions.status.model_list import ModelEntry
from functions.status.task_index import TaskIndex
from tasks.errors import ERRORS
from tasks.events import EndStatus
from tasks.task import Task
from tests.support.gateway_world import BODY, GatewayWorld, is_problem, world
from tests.support.world import card

Answer = tuple[str, str, str, str]
"""Method, path template, HTTP status, and the code of a problem or the media type."""
IMAGE = {"Prefer": "wait=30", "Accept": "image/*"}
JSON_TYPE = {"Content-Type": "application/json"}
SUBMIT = ("POST", "/generate_image")
TASK_ROUTES = (
    ("GET", "/check_status/{task_id}"),
    ("GET", "/get_image/{task_id}"),
    ("GET", "/preview/{task_id}"),
    ("POST", "/cancel_task/{task_id}"),
    ("GET", "/events/{task_id}"),
)
SCALE = ("GET", "/scale/{model}")
NOBODY = "0" * 32


@dataclass
class Tour:
    """A client of one gateway that checks each answer against the gateway's own document and remembers it."""

    world: GatewayWorld
    gateway: GatewayApp
    client: httpx.AsyncClient
    document: dict[str, Any]
    seen: set[Answer] = field(default_factory=set)

    async def ask(
        self, route: tuple[str, str], *, task_id: str = NOBODY, model: str = "sd-mini", query: str = "", **more: Any
    ) -> httpx.Response:
        """One request of this route. Fails where the document does not have its answer."""
        method, path = route
        answer = await self.client.request(method, path.format(task_id=task_id, model=model) + query, **more)
        self.check(route, answer)
        return answer

    def check(self, route: tuple[str, str], answer: httpx.Response) -> None:
        """Fail where the document does not have this answer of this route."""
        method, path = route
        status, media_type = str(answer.status_code), answer.headers.get("content-type", "").partition(";")[0]
        documented = self.document["paths"][path][method.lower()]["responses"]
        assert status in documented, f"{method} {path} answered {status}: {answer.text}"
        content = documented[status].get("content", {})
        if not content:
            assert answer.content == b""
            self.seen.add((method, path, status, ""))
            return
        assert media_type in content, f"{method} {path} answered {status} as {media_type}"
        match media_type:
            case "application/json":
                self.validate(content[media_type]["schema"], answer.json())
            case "application/problem+json":
                self.validate(content[media_type]["schema"], answer.json())
                self.seen.add((method, path, status, answer.json()["code"]))
                return
            case "text/event-stream":
                self.check_events(content[media_type]["itemSchema"], answer.text)
            case _:
                assert answer.content
        self.seen.add((method, path, status, media_type))

    def check_events(self, schema: dict[str, Any], text: str) -> None:
        """Fail where an event of the stream, or the document that it carries, is not as the schema says."""
        events = [dict(line.split(": ", 1) for line in block.split("\n")) for block in text.strip().split("\n\n")]
        assert events
        for event in events:
            self.validate(schema, event)
            self.validate(schema["properties"]["data"]["contentSchema"], json.loads(event["data"]))

    def validate(self, schema: dict[str, Any], value: object) -> None:
        """Fail where the value is not as the schema of the document says."""
        jsonschema_rs.Draft202012Validator({**schema, "components": self.document["components"]}).validate(value)

    async def submit(self, **body: Any) -> Task:
        """One more task."""
        before = {task.task_id for task in self.world.tasks()}
        assert (await self.ask(SUBMIT, json={**BODY, **body})).status_code == 202
        return next(task for task in self.world.tasks() if task.task_id not in before)

    async def end_while_waiting(self, status: EndStatus, code: str = "", *, images: bool = True) -> None:
        """A client waits for its image; its task ends like this."""
        key = {"Idempotency-Key": f"{status}-{code}-{images}"}
        task_id = (await self.ask(SUBMIT, json=BODY, headers=key)).json()["task_id"]
        task = next(task for task in self.world.tasks() if task.task_id == task_id)
        if images:
            await self.world.end(task, status, code)
        else:
            outcome = await self.world.end(task, "canceled", announced=False)
            await self.world.log.append_event(
                outcome.model_copy(update={"status": status}), self.world.broker.partition_of(task.model_name)
            )
            await settle()
        await self.ask(SUBMIT, json=BODY, headers=IMAGE | key)

    def documented(self) -> set[Answer]:
        """Every answer that the document has."""
        return {
            (method.upper(), path, status, detail)
            for path, operations in self.document["paths"].items()
            for method, operation in operations.items()
            for status, response in operation["responses"].items()
            for detail in _details(response)
        }


def _details(response: dict[str, Any]) -> list[str]:
    content = response.get("content", {"": {}})
    codes = content.get("application/problem+json", {}).get("schema", {}).get("allOf", ())
    if codes:
        return list(codes[1]["properties"]["code"]["enum"])
    return [media_type for media_type in content if media_type not in ("image/jpeg", "image/webp")]


@contextlib.asynccontextmanager
async def tour(**settings: object) -> AsyncIterator[Tour]:
    """A tour of a gateway with these settings."""
    async with world(**settings) as w:
        await w.log.append_card(card("plain", negative_prompt=False))
        client, gateway = await w.gateway()
        yield Tour(w, gateway, client, (await client.get("/openapi.json")).json())


async def answers(t: Tour) -> None:
    """Every answer that is not an error."""
    await t.ask(("GET", "/models"))
    await t.ask(SCALE)
    task = await t.submit()
    here = {"task_id": task.task_id}
    await t.ask(("POST", "/cancel_task/{task_id}"), **here)
    await t.world.run(task, 3)
    await t.world.preview(task)
    await t.ask(("GET", "/check_status/{task_id}"), **here)
    await t.ask(("GET", "/preview/{task_id}"), **here)
    await t.world.end(task)
    for more in ({}, {"Range": "bytes=0-9"}, {"If-None-Match": "*"}):
        await t.ask(("GET", "/get_image/{task_id}"), **here, headers=more)
    for route in TASK_ROUTES:
        await t.ask(route, **here)
    canceled = await t.submit()
    await t.world.end(canceled, "canceled", "canceled")
    await t.ask(("POST", "/cancel_task/{task_id}"), task_id=canceled.task_id)
    await t.end_while_waiting("completed")
    key = {"Idempotency-Key": "completed--True"}
    await t.ask(SUBMIT, json=BODY, headers=key)
    await t.ask(SUBMIT, json={**BODY, "prompt": "another"}, headers=key)


async def refused_bodies(t: Tour) -> None:
    """Every error of a request that is not accepted."""
    for body in (
        {"model_name": "nothing"},
        {"topic": "nowhere"},
        {"loras": ["day"]},
        {"image_params": {"scheduler": "none"}},
        {"image_params": {"width": 65}},
        {"image_params": {"steps": 101}},
        {"image_params": {"num_images": 5}},
        {"prompt": "x" * 1001},
        {"prompt": ""},
        {"model_name": "plain", "negative_prompt": "blue"},
    ):
        await t.ask(SUBMIT, json={**BODY, **body})
    await t.ask(SCALE, model="nothing")
    await t.ask(SUBMIT, content=b"{", headers=JSON_TYPE)
    await t.ask(SUBMIT, content=b"{}")
    await t.ask(SUBMIT, content=b" " * (t.world.settings.body_limit + 1), headers=JSON_TYPE)
    await t.ask(SUBMIT, json=BODY, headers=IMAGE | {"Accept": "image/webp"})


async def images(t: Tour) -> None:
    """Every error of an image."""
    route = ("GET", "/get_image/{task_id}")
    task = await t.submit()
    await t.ask(route, task_id=task.task_id)
    await t.world.end(task)
    for query, headers in (("?index=x", {}), ("?index=7", {}), ("", {"Range": "bytes=999-"})):
        await t.ask(route, task_id=task.task_id, query=query, headers=headers)
    failed = await t.submit()
    await t.world.end(failed, "failed", "generation_failed")
    await t.ask(route, task_id=failed.task_id)


async def forged(t: Tour) -> None:
    """A stored outcome that is another task's."""
    task = await t.submit()
    await t.world.end(task)
    t.world.store.objects[f"tasks/{NOBODY}/outcome.json"] = t.world.store.objects[f"tasks/{task.task_id}/outcome.json"]
    for route in TASK_ROUTES:
        await t.ask(route)
    del t.world.store.objects[f"tasks/{NOBODY}/outcome.json"]


async def outages(t: Tour) -> None:
    """Every error of a gateway that cannot reach the log or the store, or that fails itself."""
    requests: list[tuple[tuple[str, str], dict[str, Any]]] = [
        *((route, {}) for route in (*TASK_ROUTES, SCALE)),
        (SUBMIT, {"json": BODY, "headers": {"Idempotency-Key": "outage"}}),
    ]
    await t.ask(SUBMIT, json=BODY, headers={"Idempotency-Key": "so that the secret is known"})
    for route in TASK_ROUTES:
        await t.ask(route)
    for number, (route, more) in enumerate(requests, 1):
        # A gateway remembers for a few seconds that an id is unknown, so each route is asked for another one.
        here = {"task_id": f"{number:032x}"}
        t.world.store.down = True
        await t.ask(route, **here, **more)
        t.world.store.down = False
        t.world.broker.down = True
        await t.ask(route, **here, **more)
        t.world.broker.down = False
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TaskIndex, "reached", _false)
            await t.ask(route, **here, **more)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("generate", "get", "changes", "cancel", "image", "preview", "models", "scale"):
            patch.setattr(Gateway, name, _fail)
        for route, more in (*requests, (("GET", "/models"), {})):
            await t.ask(route, **more)


async def _false(*_: object) -> bool:
    return False


def _fail(*_: object, **__: object) -> Any:
    raise ZeroDivisionError


async def ends(t: Tour, given: set[Answer]) -> None:
    """Every error that a task can end with, as a client gets it that waits for the image. `given`: the answers that
    other scenes have shown. Only errors that no request can cause by itself are left."""
    await t.end_while_waiting("archived", images=False)  # type: ignore[arg-type]  # an end of a newer version
    lost = await t.submit()
    outcome = await t.world.end(lost)
    del t.world.store.objects[outcome.images[0].key]
    await t.ask(("GET", "/get_image/{task_id}"), task_id=lost.task_id)
    key = {"Idempotency-Key": "completed--True"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(t.world.store, "objects", {"system/id_secret": t.world.store.objects["system/id_secret"]})
        await t.ask(SUBMIT, json=BODY, headers=IMAGE | key)
    for method, path, _, code in sorted(t.documented() - t.seen - given):
        assert (method, path) == SUBMIT, "only a client that waits gets the error of a task"
        assert code in ERRORS
        await t.end_while_waiting("failed", code)


@contextlib.asynccontextmanager
async def no_room(t: Tour, setting: str) -> AsyncIterator[Tour]:
    """A tour of a gateway that has no room for one kind of request. What it sees counts as seen by `t`."""
    async with world(**{setting: 0}) as w:
        client, gateway = await w.gateway()
        yield replace(t, world=w, gateway=gateway, client=client)


async def limits(t: Tour) -> None:
    """Every error of a client that has used up what one client may use."""
    for setting in ("max_connections", "max_connections_per_client"):
        async with no_room(t, setting) as limited:
            for route in (SUBMIT, *TASK_ROUTES, SCALE, ("GET", "/models")):
                await limited.ask(route)
    async with no_room(t, "max_unknown_ids_per_second") as limited:
        for route in TASK_ROUTES:
            await limited.ask(route)
    async with no_room(t, "max_waits_per_client") as limited:
        for route, more in ((SUBMIT, {"json": BODY}), (("GET", "/check_status/{task_id}"), {})):
            await limited.ask(route, headers={"Prefer": "wait=1"}, **more)
        assert limited.world.tasks() == []
    async with no_room(t, "max_streams_per_client") as limited:
        task = await limited.submit()
        await limited.ask(("GET", "/events/{task_id}"), task_id=task.task_id)


async def full(t: Tour) -> None:
    """Both limits of the queue."""
    for user in ("ada", "ada", "bob", "eve"):
        await t.ask(SUBMIT, json={**BODY, "user_id": user})


async def test_every_answer_is_documented_and_every_documented_answer_is_given():
    async with tour() as t, tour(max_queued_tasks_per_user=1, max_queued_tasks=2) as limited:
        await full(limited)
        for scene in (answers, refused_bodies, images, forged, outages, limits):
            await scene(t)
        await ends(t, limited.seen)
        assert sorted(t.documented() - t.seen - limited.seen) == []


async def test_with_keys_every_answer_is_documented_and_every_documented_one_given(tmp_path: Path):
    key, line = new_key("ada", models=["sd-mini"])
    (tmp_path / "keys").write_text(line.model_dump_json(exclude_none=True))
    async with tour() as without, tour(api_keys_file=tmp_path / "keys") as t:
        bearer = {"Authorization": f"Bearer {key}"}
        for route in (SUBMIT, *TASK_ROUTES, SCALE, ("GET", "/models")):
            await t.ask(route)
            await t.ask(route, query=f"?key={key}")
        await t.ask(SUBMIT, json={**BODY, "user_id": "bob"}, headers=bearer)
        await t.ask(SCALE, model="plain", headers=bearer)
        assert sorted(t.documented() - without.documented() - t.seen) == []
        assert without.documented() < t.documented()


async def test_every_task_error_and_no_other_is_documented_somewhere():
    async with tour() as t, tour() as other:
        documented = {detail for *_, detail in t.documented() | other.documented()} & ERRORS.keys()
        routing = {"not_found", "method_not_allowed", "unknown_host"}
        with_keys = {"unauthorized", "key_in_url", "not_allowed_by_key"}
        uncounted = {code for code, error in ERRORS.items() if error.retry == "uncounted"}
        assert documented == ERRORS.keys() - routing - with_keys - uncounted


async def test_the_tour_fails_at_an_answer_that_is_not_documented():
    async with tour() as t:
        responses = t.document["paths"]["/check_status/{task_id}"]["get"]["responses"]
        responses["404"]["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["code"]["enum"] = []
        with pytest.raises(jsonschema_rs.ValidationError, match="unknown_task"):
            await t.ask(("GET", "/check_status/{task_id}"))
        del responses["404"]
        with pytest.raises(AssertionError, match="answered 404"):
            await t.ask(("GET", "/check_status/{task_id}"))


async def test_documents_have_exactly_the_fields_of_their_models_in_order():
    async with tour() as t:
        task = await t.submit()
        for end in (False, True):
            if end:
                await t.world.end(task)
            status = (await t.ask(("GET", "/check_status/{task_id}"), task_id=task.task_id)).json()
            assert list(status) == list(TaskStatus.model_fields)
            assert list(status["timings"]) == ["queued", "loading", "generating", "storing"]
        models = (await t.ask(("GET", "/models"))).json()["models"]
        assert all(list(entry) == list(ModelEntry.model_fields) for entry in models)


async def test_every_field_of_every_documented_object_is_described():
    async with tour() as t:
        schemas = t.document["components"]["schemas"]
        for name in (
            "TaskStatus",
            "TaskImage",
            "TaskError",
            "TaskTimings",
            "TaskProgress",
            "ModelEntry",
            "ModelScale",
            "Problem",
        ):
            for field_name, schema in schemas[name]["properties"].items():
                described = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
                assert described.get("description"), (name, field_name)


async def test_the_documentation_needs_nothing_from_elsewhere():
    async with world() as w:
        client, _ = await w.gateway()
        for page in ("/docs", "/redoc", "/docs/errors"):
            answer = await client.get(page)
            assert answer.status_code == 200
            assert "https://" not in answer.text, page
        routes = (await client.get("/openapi.json")).json()["paths"]
        assert {"/generate_image", "/check_status/{task_id}", "/get_image/{task_id}"} <= routes.keys()
        is_problem(await client.get("/docs/nothing"), 404, "not_found")
