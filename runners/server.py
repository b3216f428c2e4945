"""The HTTP API of a runner: `POST /run` streams frames, `GET /models` and `GET /card` describe its model."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import NoReturn

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from config.settings import Settings
from runners.capabilities import describe, narrow
from runners.engine import Engine
from runners.families import UnusableModel
from runners.guard import Guard
from runners.loading import load
from runners.metrics import CONTENT_TYPE_LATEST, RunnerMetrics
from runners.model_folder import ModelFolder
from runners.warm_up import warm_up, warm_up_request
from runners.wire import FrameStream, read_run
from tasks.accept import accept
from tasks.capabilities import ModelStatus, RunnerDescription, RunnerStatus, ServedModel
from tasks.errors import (
    BROWSER_RULES,
    InvalidRequest,
    NotUnderstood,
    RunnerLoading,
    SizeNotSupported,
    TaskError,
    UnknownModel,
)
from tasks.runner_api import End, Frame, Input, RunRequest, encode
from tasks.task import UNDERSTOOD_FIELDS, DrawingFields, GenerateRequest, ImageParams

logger = logging.getLogger("runner")

FAILED_LOAD = 3
"""Exit code of a runner whose model cannot be used."""
_LANE = "runner"


class ModelServer:
    """Serves one model: it is loading, then ready, then shutting down."""

    def __init__(self, folder: ModelFolder, settings: Settings) -> None:
        """`start` loads the model in a thread of its own, so that /livez answers meanwhile."""
        self._folder = folder
        self._settings = settings
        self._instance = uuid.uuid4().hex
        self._capabilities = describe(folder, settings)
        self.metrics = RunnerMetrics()
        self.engine: Engine | None = None
        self._leaving = False

    def start(self, failed: Callable[[str], None]) -> None:
        """Load in the background. `failed` is called with one sentence if the model cannot be served."""
        threading.Thread(target=self._load, args=(failed,), name="loader", daemon=True).start()

    def _load(self, failed: Callable[[str], None]) -> None:
        try:
            model = load(self._folder, self._settings)
            engine = Engine(
                model, time.monotonic, self.metrics.tick, lambda error: failed(f"the engine broke: {error!r}")
            )
            began = time.monotonic()
            warm_up(engine, [warm_up_request(model.facts, steps) for steps in (1, 2)])
            logger.info("warmed up in %.1f s", time.monotonic() - began)
            self._capabilities = narrow(self._capabilities, model.adapters.names, model.pixel_budget)
            self.engine = engine
        except (UnusableModel, TaskError) as error:
            failed(str(error))
        except Exception as error:  # noqa: BLE001 - otherwise a runner whose loader died would stay in loading
            failed(f"{self._folder.path} cannot be served: {error!r}")

    def ready(self) -> Engine:
        """The engine. Raises RunnerLoading."""
        self._refuse_if_leaving()
        if self.engine is None:
            raise RunnerLoading
        return self.engine

    def _refuse_if_leaving(self) -> None:
        if self._leaving:
            raise RunnerLoading("The runner is shutting down.")

    async def leave(self) -> None:
        """Refuse every new task from now on. Returns when the accepted tasks have ended, or when the grace is over and
        they have failed."""
        self._leaving = True
        if self.engine is not None:
            grace = self._settings.runner_grace
            await asyncio.get_running_loop().run_in_executor(None, self.engine.close, grace)

    def description(self) -> RunnerDescription:
        """The capabilities of the model, also while it is loading, and the status of the runner. Raises RunnerLoading
        when it is shutting down."""
        self._refuse_if_leaving()
        name = self._capabilities.model
        return RunnerDescription(
            status=RunnerStatus(instance=self._instance, models={name: self._status()}),
            capabilities={name: self._capabilities},
        )

    def _status(self) -> ModelStatus:
        if self.engine is None:
            return ModelStatus(loaded=False)
        running, waiting = self.engine.load()
        return ModelStatus(
            loaded=True,
            pixel_budget=self.engine.model.pixel_budget,
            seconds_per_megapixel_step=float(f"{self.engine.seconds_per_megapixel_step:.3g}"),
            running_pixels=running,
            waiting=waiting,
            acceleration=self.engine.model.acceleration,
        )

    def served(self) -> ServedModel:
        """The model with its status. Raises RunnerLoading."""
        self.ready()
        return ServedModel.of(self._capabilities, self._status(), self._instance)

    def run(self, request: RunRequest, inputs: Mapping[str, Input], loop: asyncio.AbstractEventLoop) -> FrameStream:
        """Accept the task. Raises RunnerBusy, RunnerLoading, NotUnderstood, or an error that names a field."""
        engine = self.ready()
        _check(request, self.served())
        _check_inputs(request, engine.model.facts.spec.inputs)
        frames: asyncio.Queue[bytes | None] = asyncio.Queue()

        def emit(frame: Frame) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends, and no caller is left
                loop.call_soon_threadsafe(frames.put_nowait, encode(frame))
                if isinstance(frame, End):
                    loop.call_soon_threadsafe(frames.put_nowait, None)

        return FrameStream(frames, engine.submit(request, emit, inputs))


def _check(request: RunRequest, model: ServedModel) -> None:
    """Check the request as the gateway does, because a runner does not trust its caller."""
    if unknown := sorted(set(request.requires) - UNDERSTOOD_FIELDS):
        raise NotUnderstood(f"The task requires a runner that understands {', '.join(unknown)}.", field="requires")
    if request.model_name != model.model:
        # The consumer has looked the name up already. An alias of this model may be the name of another one.
        raise UnknownModel(f"This runner serves {model.model}.", field="model_name", allowed=[model.model])
    fields = request.model_dump(include=set(DrawingFields.model_fields) - {"max_runtime"})
    params = request.model_dump(include=set(ImageParams.model_fields) - {"drawn_at"})
    alias = {"model_name": request.alias} if request.alias in model.aliases else {}
    try:
        submitted = GenerateRequest.model_validate(fields | alias | {"image_params": params})
    except ValidationError as error:
        raise InvalidRequest(str(error.errors(include_url=False)[0]["msg"])) from error
    task = accept(submitted, task_id=request.task_id, models={model.model: model}, lanes=(_LANE,), created_at=0.0)
    if task.image_params.drawn_at != request.drawn_at:
        drawn_width, drawn_height = task.image_params.drawn_size
        raise SizeNotSupported(
            f"{model.model} draws {request.width}x{request.height} at {drawn_width}x{drawn_height}.", field="drawn_at"
        )


def _check_inputs(request: RunRequest, allowed: tuple[str, ...]) -> None:
    for name in request.inputs:
        if name not in allowed:
            raise InvalidRequest(
                f"{request.model_name} takes no input {name!r}. Inputs: {', '.join(allowed) or 'none'}.",
                field="inputs",
                allowed=list(allowed),
            )


def build_app(folder: ModelFolder, settings: Settings) -> FastAPI:
    """The app of a runner. Its lifespan loads the model, and at its end waits for the accepted tasks. A caller that
    first awaits `app.state.leave` lets the app answer while these tasks end."""
    server = ModelServer(folder, settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        server.start(die)
        yield
        await server.leave()

    app = FastAPI(title=f"runner of {settings.model_name}", lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.add_middleware(Guard, hosts=settings.runner_allowed_hosts, secret=settings.runner_secret)
    app.state.leave = server.leave

    @app.exception_handler(TaskError)
    async def problem(request: Request, error: TaskError) -> JSONResponse:
        return JSONResponse(
            error.problem(request.scope["path"]), error.status, BROWSER_RULES, media_type="application/problem+json"
        )

    async def run(request: Request) -> Response:
        run_request, inputs = await read_run(request)
        return server.run(run_request, inputs, asyncio.get_running_loop())

    async def card(_: Request) -> Response:
        return Response(server.served().model_dump_json(), media_type="application/json")

    async def models(_: Request) -> Response:
        return Response(server.description().model_dump_json(), media_type="application/json")

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        server.ready()
        return JSONResponse({"status": "ready"})

    async def metrics(_: Request) -> Response:
        running_pixels, waiting = server.engine.load() if server.engine is not None else (0, 0)
        return Response(server.metrics.text(running_pixels, waiting), media_type=CONTENT_TYPE_LATEST)

    app.add_route("/run", run, methods=["POST"])
    pages = {"/card": card, "/models": models, "/livez": livez, "/readyz": readyz, "/metrics": metrics}
    for path, page in pages.items():
        app.add_route(path, page, methods=["GET"])
    return app


def die(sentence: str) -> NoReturn:
    """End the process with this sentence as the last line of its log."""
    logger.critical("%s", sentence)
    main = sys.modules["__main__"].__spec__
    if main is not None and main.name.startswith("_bentoml_impl.worker"):
        # BentoML's server would start this worker again, or run on without a worker. Neither helps a broken model.
        os.kill(os.getppid(), signal.SIGKILL)
    os._exit(FAILED_LOAD)
