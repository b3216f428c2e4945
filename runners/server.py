"""A runner's HTTP face: `POST /run` streams frames, `GET /card` says what it can do."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import NoReturn

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from config.settings import Settings
from runners.capabilities import make_card, warm_up_request
from runners.engine import Engine, Job, warm_up
from runners.loading import load
from runners.model_folder import ModelFolder, UnusableModel
from tasks.accept import accept
from tasks.errors import BodyTooLarge, InvalidRequest, RunnerLoading, TaskError
from tasks.frames import encode
from tasks.run import RunnerCard, RunRequest
from tasks.task import GenerateRequest

log = logging.getLogger("runner")

FAILED_LOAD = 3
"""Exit code of a runner whose model cannot be used."""
_LANE = "runner"
_BODY_LIMIT = 4 * 1024**2
"""Bytes: a task may have 1 MiB at most, wherever RECORD_LIMIT stands."""


class FrameStream(Response):
    """Sends frames as they come, and cancels the job as soon as nobody listens."""

    def __init__(self, frames: "asyncio.Queue[bytes | None]", job: Job) -> None:
        """The frames of this job; None ends them."""
        super().__init__(media_type="application/octet-stream")
        self._frames = frames
        self._job = job
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the last frame or until the caller has gone."""
        gone = asyncio.ensure_future(self._until_gone(receive))
        sent = asyncio.ensure_future(self._send(send))
        try:
            await asyncio.wait((gone, sent), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._job.cancel()
            for one in (gone, sent):
                one.cancel()
            await asyncio.gather(gone, sent, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        while (frame := await self._frames.get()) is not None:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue


class RunnerMetrics:
    """What a runner counts."""

    def __init__(self) -> None:
        """All at zero."""
        self.registry = CollectorRegistry()
        r = self.registry
        self.busy = Counter("ai_image_gen_runner_busy_seconds", "Seconds spent in forwards.", registry=r)
        self.rows = Histogram(
            "ai_image_gen_runner_batch_rows", "Pictures in one forward.", buckets=(1, 2, 3, 4, 6, 8, 12, 16), registry=r
        )
        self.ticks = Histogram(
            "ai_image_gen_runner_tick_seconds",
            "Time of one forward.",
            buckets=(0.005, 0.02, 0.05, 0.1, 0.3, 1, 3),
            registry=r,
        )
        self.running = Gauge("ai_image_gen_runner_running_pixels", "Pixels being made.", registry=r)
        self.waiting = Gauge("ai_image_gen_runner_waiting", "Tasks taken and not begun.", registry=r)

    def tick(self, rows: int, seconds: float) -> None:
        """Count one forward."""
        self.busy.inc(seconds)
        self.rows.observe(rows)
        self.ticks.observe(seconds)


class ModelServer:
    """One model being served: loading, then ready, then closing."""

    def __init__(self, folder: ModelFolder, settings: Settings) -> None:
        """Loads in a thread of its own, so that /livez answers meanwhile."""
        self._folder = folder
        self._settings = settings
        self._instance = uuid.uuid4().hex
        self.metrics = RunnerMetrics()
        self.engine: Engine | None = None
        self._leaving = False

    def start(self, failed: Callable[[str], None]) -> None:
        """Load in the background; `failed` is told a sentence if that cannot be done."""
        threading.Thread(target=self._load, args=(failed,), name="loader", daemon=True).start()

    def _load(self, failed: Callable[[str], None]) -> None:
        try:
            model = load(self._folder, self._settings)
            engine = Engine(
                model, time.monotonic, self.metrics.tick, lambda error: failed(f"the engine broke: {error!r}")
            )
            began = time.monotonic()
            warm_up(engine, [warm_up_request(model, steps) for steps in (1, 2)])
            log.info("warmed up in %.1f s", time.monotonic() - began)
            self.engine = engine
        except (UnusableModel, TaskError) as error:
            failed(str(error))
        except Exception as error:  # noqa: BLE001 - a loader that ended without an engine would look busy for ever
            failed(f"{self._folder.path} cannot be served: {error!r}")

    def ready(self) -> Engine:
        """The engine. Raises RunnerLoading."""
        if self._leaving:
            raise RunnerLoading("The runner is shutting down.")
        if self.engine is None:
            raise RunnerLoading
        return self.engine

    async def leave(self) -> None:
        """Refuse every new task from now on, which its card says too, and return when those in work have ended, or
        were dropped because their time was over."""
        self._leaving = True
        if self.engine is not None:
            grace = self._settings.runner_grace
            await asyncio.get_running_loop().run_in_executor(None, self.engine.close, grace)

    def card(self) -> RunnerCard:
        """What it can do. Raises RunnerLoading."""
        engine = self.ready()
        running, waiting = engine.load()
        return make_card(engine.model, self._settings, engine.seconds_per_megapixel_step).model_copy(
            update={"instance": self._instance, "running_pixels": running, "waiting": waiting}
        )

    def run(self, request: RunRequest, loop: asyncio.AbstractEventLoop) -> FrameStream:
        """Take the task. Raises RunnerBusy, RunnerLoading, or what the model cannot do."""
        engine = self.ready()
        _check(request, make_card(engine.model, self._settings, engine.seconds_per_megapixel_step))
        frames: asyncio.Queue[bytes | None] = asyncio.Queue()

        def emit(kind: str, payload: bytes = b"", **header: object) -> None:
            frame = encode(kind, payload, **header)
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is going, and nobody listens
                loop.call_soon_threadsafe(frames.put_nowait, frame)
                if kind == "end":
                    loop.call_soon_threadsafe(frames.put_nowait, None)

        return FrameStream(frames, engine.submit(request, emit))


def _check(request: RunRequest, card: RunnerCard) -> None:
    params = request.model_dump(
        include={"width", "height", "steps", "guidance_scale", "num_images", "scheduler", "format"}
    )
    try:
        asked = GenerateRequest(
            model_name=request.model_name,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            image_params=params,
            loras=[lora.model_dump() for lora in request.loras],
        )
    except ValidationError as error:
        raise InvalidRequest(str(error.errors(include_url=False)[0]["msg"])) from error
    accept(asked, task_id=request.task_id, cards={card.model: card}, lanes=(_LANE,), created_at=0.0)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _BODY_LIMIT:
            raise BodyTooLarge(f"The body may have at most {_BODY_LIMIT} bytes.")
    return bytes(body)


def build_app(folder: ModelFolder, settings: Settings) -> FastAPI:
    """The app of a runner; its lifespan loads the model and ends with the tasks in work done or dropped. Who waits for
    `app.state.leave` first has that done while the app still answers."""
    runner = ModelServer(folder, settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        runner.start(die)
        yield
        await runner.leave()

    app = FastAPI(title=f"runner of {settings.model_name}", lifespan=lifespan, openapi_url=None)
    app.state.leave = runner.leave

    @app.exception_handler(TaskError)
    async def known(request: Request, error: TaskError) -> JSONResponse:
        return JSONResponse(error.problem(request.url.path), error.status, media_type="application/problem+json")

    async def run(request: Request) -> Response:
        try:
            asked = RunRequest.model_validate_json(await _body(request))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InvalidRequest(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        return runner.run(asked, asyncio.get_running_loop())

    async def card(_: Request) -> Response:
        return Response(runner.card().model_dump_json(), media_type="application/json")

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        runner.ready()
        return JSONResponse({"status": "ready"})

    async def metrics(_: Request) -> Response:
        if runner.engine is not None:
            running, waiting = runner.engine.load()
            runner.metrics.running.set(running)
            runner.metrics.waiting.set(waiting)
        return Response(generate_latest(runner.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    app.add_route("/run", run, methods=["POST"])
    for path, answer in {"/card": card, "/livez": livez, "/readyz": readyz, "/metrics": metrics}.items():
        app.add_route(path, answer, methods=["GET"])
    return app


def die(sentence: str) -> NoReturn:
    """End the process with this sentence as the last thing it says."""
    log.critical("%s", sentence)
    main = sys.modules["__main__"].__spec__
    if main is not None and main.name.startswith("_bentoml_impl.worker"):
        # The server around this worker would start it again, or live on without one. The model will not get better.
        os.kill(os.getppid(), signal.SIGKILL)
    os._exit(FAILED_LOAD)
