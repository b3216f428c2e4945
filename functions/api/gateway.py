"""The HTTP API: routes, and how the gateway is put together."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi_offline import FastAPIOffline

from adapters.view import View
from config.settings import Settings
from functions.api import openapi as describe
from functions.api import problems
from functions.api.auth import Authenticator, Caller
from functions.api.disconnect import until_disconnect
from functions.api.headers import joined, single, traceparent, wait_seconds, wants_image
from functions.api.health import Health, HealthLayer
from functions.api.image_response import give, pick
from functions.api.keys import ApiKeyFile, BadKeys
from functions.api.metrics import GatewayMetrics
from functions.api.request_body import parse_request, read_body
from functions.api.sse import stream
from functions.status.model_list import list_models
from functions.status.status import Known, Status
from functions.status.task_index import TaskIndex
from functions.submit.submit import Submit
from functions.submit.task_ids import TaskIds
from tasks.errors import InvalidRequest, RangeNotSatisfiable, UnknownTask, from_code
from tasks.ports import Clock, ImageStore, TaskLog
from tasks.queues import Queues
from tasks.task import CONTENT_TYPES

log = logging.getLogger("api")

Call = Callable[[Request, Caller], Awaitable[Response]]


@dataclass(frozen=True)
class Gateway:
    """The parts of a gateway."""

    app: FastAPI
    follower: TaskIndex
    status: Status
    submit: Submit
    health: Health


def build_gateway(settings: Settings, *, task_log: TaskLog, store: ImageStore, clock: Clock) -> Gateway:
    """A gateway on these adapters. Its app follows the log while its lifespan lasts. Exits with a sentence where the
    file of API keys cannot be used."""
    gate = Authenticator(open_keys(settings))
    follower = TaskIndex(task_log, View(settings.view_path, settings.lane_names), Queues(settings.lane_weights))
    status = Status(task_log, store, follower, clock, settings.public_url)
    submit = Submit(settings, task_log, follower, status, TaskIds(store), clock)
    metrics = GatewayMetrics()
    health = Health(task_log, store, follower, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        following = asyncio.ensure_future(follower.run())
        following.add_done_callback(_crash)
        tidying = asyncio.ensure_future(_forget_old(follower.view, clock, settings.view_hours * 3600))
        try:
            yield
        finally:
            follower.stop_waiting()
            following.cancel()
            tidying.cancel()
            await asyncio.gather(following, tidying, return_exceptions=True)
            await task_log.close()
            follower.view.close()

    app = FastAPIOffline(title=describe.TITLE, lifespan=lifespan)
    app.add_middleware(HealthLayer, health=health)
    problems.install(app, metrics)
    _routes(app, settings, submit, status, metrics, gate)
    describe.install(app, keys=gate.closed)
    return Gateway(app, follower, status, submit, health)


def open_keys(settings: Settings) -> ApiKeyFile | None:
    """The API keys, or None where they are off. Exits with a sentence where their file cannot be used."""
    try:
        return ApiKeyFile(settings.api_keys_file) if settings.api_keys_file else None
    except BadKeys as error:
        raise SystemExit(str(error)) from error


async def _forget_old(view: View, clock: Clock, seconds: float) -> None:
    while True:
        # Often, so that each time it is little: it holds up everybody else.
        view.prune(clock.now() - seconds)
        await clock.sleep(60)


def _crash(following: "asyncio.Future[None]") -> None:
    if not following.cancelled() and (error := following.exception()) is not None:
        # A gateway that follows nothing would answer with old news for ever.
        log.critical("the gateway cannot follow the queue: %s", error)
        raise SystemExit(1)


def _routes(
    app: FastAPI, settings: Settings, submit: Submit, status: Status, metrics: GatewayMetrics, gate: Authenticator
) -> None:
    follower = status.follower

    def route(method: str, path: str) -> Callable[[Call], Call]:
        seconds = metrics.seconds.labels(path)

        def add(call: Call) -> Call:
            async def timed(request: Request) -> Response:
                began = time.perf_counter()
                code = 500
                try:
                    # Here, so that no route can be without it.
                    answer = await call(request, gate.caller(request))
                    code = answer.status_code
                    return answer
                except Exception as error:
                    code = getattr(error, "status", 500)
                    raise
                finally:
                    seconds.observe(time.perf_counter() - began)
                    metrics.requests.labels(path, code).inc()

            methods = ["GET", "HEAD"] if method == "GET" else [method]
            app.add_route(path, timed, methods=methods, include_in_schema=False)
            return call

        return add

    def answer(known: Known, code: int, **headers: str) -> JSONResponse:
        return JSONResponse(status.document(known), code, {"Cache-Control": "no-store", **headers})

    async def owned(task_id: str, caller: Caller) -> Known:
        known = await status.get(task_id)
        if not caller.owns(known.task):
            raise UnknownTask
        return known

    @route("POST", "/generate_image")
    async def generate_image(request: Request, caller: Caller) -> Response:
        parsed = parse_request(await read_body(request.headers, request.stream(), settings.body_limit))
        if not follower.started:
            await follower.caught_up()
        parsed = caller.request(parsed, follower.view.cards(), settings.lane_names)
        seconds = wait_seconds(joined(request.headers, "prefer"), settings.wait_limit)
        accept = joined(request.headers, "accept")
        picture = seconds is not None and wants_image(accept, CONTENT_TYPES[parsed.image_params.format or "png"])
        key = single(request.headers, "Idempotency-Key")
        known = await submit(parsed, key, traceparent(request.headers))
        task_id = known.task.task_id
        headers = {"Location": f"{settings.public_url}/check_status/{task_id}"}
        if seconds is None:
            # A small picture may be done before its own 202 is: only a repeated request is told the end with a 200.
            return answer(known, 200 if key is not None and known.state.ended else 202, **headers)
        headers["Preference-Applied"] = f"wait={seconds:g}"
        if not known.state.ended:
            known = await until_disconnect(request, status.wait(task_id, seconds)) or known
        if not known.state.ended:
            return answer(known, 202, **headers)
        if not picture:
            return answer(known, 200, **headers)
        if known.outcome is not None and known.outcome.error is not None:
            raise from_code(known.outcome.error.code, known.outcome.error.message)
        given = await give(status.store, pick(known, 0))
        return Response(given.body, given.status, {**given.headers, **headers, "X-Task-Id": task_id})

    @route("GET", "/check_status/{task_id}")
    async def check_status(request: Request, caller: Caller) -> Response:
        seconds = wait_seconds(joined(request.headers, "prefer"), settings.wait_limit)
        task_id = request.path_params["task_id"]
        known = await owned(task_id, caller)
        if seconds is None:
            return answer(known, 200)
        known = await until_disconnect(request, status.wait(task_id, seconds)) or known
        return answer(known, 200, **{"Preference-Applied": f"wait={seconds:g}"})

    @route("GET", "/get_image/{task_id}")
    async def get_image(request: Request, caller: Caller) -> Response:
        index = request.query_params.get("index", "0")
        if not index.isascii() or not index.isdecimal() or len(index) > 6:
            raise InvalidRequest("index must be a number from 0.", field="index")
        image = pick(await owned(request.path_params["task_id"], caller), int(index))
        try:
            given = await give(
                status.store,
                image,
                if_none_match=joined(request.headers, "if-none-match"),
                range_header=request.headers.get("range", ""),
                if_range=request.headers.get("if-range", ""),
            )
        except RangeNotSatisfiable as error:
            return problems.problem(request, error, {"Content-Range": f"bytes */{image.size}"})
        return Response(given.body, given.status, given.headers)

    @route("POST", "/cancel_task/{task_id}")
    async def cancel_task(request: Request, caller: Caller) -> Response:
        await owned(request.path_params["task_id"], caller)
        known = await status.cancel(request.path_params["task_id"])
        return answer(known, 200 if known.state.ended else 202)

    @route("GET", "/events/{task_id}")
    async def events(request: Request, caller: Caller) -> Response:
        task_id = request.path_params["task_id"]
        await owned(task_id, caller)
        told = stream(status, task_id) if request.method == "GET" else ()
        return StreamingResponse(told, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @route("GET", "/models")
    async def models(request: Request, caller: Caller) -> Response:
        usable = caller.usable(follower.view.cards())
        listed = [entry for entry in list_models(follower) if (entry["alias_of"] or entry["model_name"]) in usable]
        return JSONResponse({"models": listed}, headers={"Cache-Control": "no-store"})
