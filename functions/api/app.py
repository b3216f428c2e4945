"""How a gateway is put together: its parts, the faces mounted on one app, and the app's lifespan."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from adapters.view import View
from config.settings import Settings
from functions.api import openapi
from functions.api.api_keys import ApiKeyFile, BadKeys
from functions.api.auth import Authenticator
from functions.api.edge import Edge
from functions.api.errors_page import add_errors_page
from functions.api.face import FaceParts
from functions.api.gateway import Gateway
from functions.api.health import Health
from functions.api.hosts import Hosts
from functions.api.limits import ClientLimits, LimitRequests
from functions.api.metrics import GatewayMetrics
from functions.api.routes import NativeLinks, add_native_face
from functions.status.status import Status
from functions.status.task_index import TaskIndex
from functions.submit.submit import Submit
from functions.submit.task_ids import TaskIds
from tasks.ports import Clock, ImageStore, TaskLog
from tasks.queues import Queues

logger = logging.getLogger("api")

FACES: Mapping[str, Callable[[FastAPI, FaceParts], None]] = {}
"""The faces beside the native one, by the path each is mounted at."""
_PRUNE_SECONDS = 60.0
"""Seconds between two rounds. A round blocks every request, so rounds are frequent and each deletes little."""


@dataclass(frozen=True)
class GatewayApp:
    """A gateway and the app that serves it. The gateway follows the log while the app's lifespan lasts."""

    app: FastAPI
    gateway: Gateway

    @property
    def index(self) -> TaskIndex:
        """All tasks, as this gateway has read them."""
        return self.gateway.index

    def stop_waiting(self) -> None:
        """Answer every waiting caller now, and report not ready from now on: the process is about to end."""
        self.index.stop_waiting()


def build_gateway(settings: Settings, *, task_log: TaskLog, store: ImageStore, clock: Clock) -> GatewayApp:
    """A gateway on these adapters. Exits with a message if the file of API keys cannot be used."""
    keys = open_keys(settings)
    index = TaskIndex(task_log, View(settings.view_path, settings.lane_names), Queues(settings.lane_weights))
    status = Status(task_log, store, index, clock)
    submit = Submit(settings, task_log, index, status, TaskIds(store), clock)
    limits = ClientLimits(settings, clock.monotonic)
    gateway = Gateway(settings, submit, status, NativeLinks(settings.public_url), limits)
    metrics = GatewayMetrics()
    parts = FaceParts(gateway, Authenticator(keys) if keys else None, metrics, limits)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        following = asyncio.ensure_future(index.run())
        following.add_done_callback(_exit_on_error)
        pruning = asyncio.ensure_future(_prune(index.view, clock, settings.view_hours * 3600))
        try:
            yield
        finally:
            index.stop_waiting()
            following.cancel()
            pruning.cancel()
            await asyncio.gather(following, pruning, return_exceptions=True)
            await task_log.close()
            index.view.close()

    app = FastAPIOffline(title=openapi.TITLE, lifespan=lifespan, redirect_slashes=False)
    app.add_middleware(LimitRequests, limits=limits, metrics=metrics)
    # First, because routes are tried in their order and these are the busy ones.
    add_native_face(app, parts)
    Health(task_log, store, index, metrics, keys).add_routes(app)
    for path, add_face in FACES.items():
        face_app = FastAPI(openapi_url=None, redirect_slashes=False)
        add_face(face_app, parts)
        app.mount(path, face_app)
    if keys is not None:
        metrics.watch_keys(lambda: keys.broken)
    openapi.install(app, keys=keys is not None)
    add_errors_page(app)
    hosts = Hosts(settings)
    if hosts.any and keys is None:
        logger.warning("any Host is answered without a key: name the gateway's hosts in ALLOWED_HOSTS")
    app.add_middleware(Edge, hosts=hosts, metrics=metrics)
    return GatewayApp(app, gateway)


def open_keys(settings: Settings) -> ApiKeyFile | None:
    """The API keys, or None if they are off. Exits with a message if their file cannot be used."""
    try:
        return ApiKeyFile(settings.api_keys_file) if settings.api_keys_file else None
    except BadKeys as error:
        raise SystemExit(str(error)) from error


async def _prune(view: View, clock: Clock, seconds: float) -> None:
    while True:
        view.prune(clock.now() - seconds)
        await clock.sleep(_PRUNE_SECONDS)


def _exit_on_error(following: "asyncio.Future[None]") -> None:
    if not following.cancelled() and (error := following.exception()) is not None:
        # A gateway that no longer follows the log would answer with an old state for ever.
        logger.critical("the gateway cannot follow the queue: %s", error)
        raise SystemExit(1)
