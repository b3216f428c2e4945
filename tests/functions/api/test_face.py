"""Faces: what each has, how another is added, and the answers to requests that no route takes."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from functions.api import app
from functions.api.api_keys import new_key
from functions.api.caller import Caller
from functions.api.face import Face, FaceParts
from functions.api.gateway import Gateway
from functions.api.problems import Problem
from tasks.task import GenerateRequest
from tests.support.gateway_world import is_problem, world

NOBODY = "0" * 32


async def test_an_unknown_path_or_method_is_a_problem():
    async with world() as w:
        client, _ = await w.gateway()
        is_problem(await client.get("/nowhere"), 404, "not_found")
        answer = await client.get("/generate_image")
        is_problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "POST"
        is_problem(await client.delete(f"/check_status/{NOBODY}"), 405, "method_not_allowed")


async def test_requests_that_no_route_takes_are_counted_too():
    async with world() as w:
        client, _ = await w.gateway()
        is_problem(await client.get("/nothing"), 404, "not_found")
        is_problem(await client.delete("/models"), 405, "method_not_allowed")
        page = (await client.get("/metrics")).text
        for status in (404, 405):
            assert f'ai_image_gen_http_requests_total{{route="none",status="{status}"}} 1.0' in page


async def test_an_error_of_the_framework_keeps_its_status():
    async with world() as w:
        client, gateway = await w.gateway()

        async def teapot(_: object) -> None:
            raise HTTPException(418, "short and stout")

        gateway.app.add_route("/teapot", teapot)
        answer = await client.get("/teapot")
        assert answer.status_code == 418
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.json()["status"], answer.json()["detail"]) == (418, "short and stout")


def add_toy_face(app: FastAPI, parts: FaceParts) -> None:
    """A face with one route and errors of its own shape, as the next one will be."""

    def render(problem: Problem, headers: Mapping[str, str]) -> Response:
        return JSONResponse({"error": {"message": problem.detail, "code": problem.code}}, problem.status, headers)

    async def draw(request: Request, caller: Caller) -> Response:
        asked = GenerateRequest(model_name=request.query_params["model"], prompt="a red circle")
        snapshot = await parts.gateway.generate(asked, caller)
        return JSONResponse({"id": snapshot.task.task_id})

    Face(app, parts, render, "/toy/v1").add("POST", "/draw/{what}", draw)


async def test_another_face_is_one_file_and_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(app, "FACES", {"/toy/v1": add_toy_face})
    key, line = new_key("ada")
    (tmp_path / "keys").write_text(line.model_dump_json(exclude_none=True))
    async with world(api_keys_file=tmp_path / "keys") as w:
        client, _ = await w.gateway()
        client.headers["Authorization"] = f"Bearer {key}"
        drawn = await client.post("/toy/v1/draw/it?model=sd-mini")
        (task,) = w.tasks()
        assert (drawn.status_code, drawn.json(), task.user_id) == (200, {"id": task.task_id}, "ada")
        assert (await client.get(f"/check_status/{task.task_id}")).json()["status"] == "queued"
        refused = await client.post("/toy/v1/draw/it?model=none")
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "unknown_model")
        nothing = await client.get("/toy/v1/nothing")
        assert (nothing.status_code, nothing.json()["error"]["code"]) == (404, "not_found")
        closed = await client.post("/toy/v1/draw/it?model=sd-mini", headers={"Authorization": "x"})
        assert (closed.status_code, closed.json()["error"]["code"]) == (401, "unauthorized")
        assert closed.headers["www-authenticate"].startswith("Bearer ")
        is_problem(await client.get("/nothing"), 404, "not_found")
        page = (await client.get("/metrics")).text
        for status in (200, 401, 422):
            counted = f'ai_image_gen_http_requests_total{{route="/toy/v1/draw/{{what}}",status="{status}"}} 1.0'
            assert counted in page


async def test_an_internal_error_is_a_problem_that_quotes_nothing(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(Gateway, "models", fail)
    async with world() as w:
        client, _ = await w.gateway()
        answer = await client.get("/models")
        is_problem(answer, 500, "worker_failed")
        assert "secret" not in answer.text
