"""A gateway and a consumer on twins behind a real HTTP server, for clients that connect over a socket."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn

from adapters.clock import SystemClock
from adapters.memory_log import MemoryLog
from bentos.framing import StrictConnection
from config.settings import Settings
from functions.api.app import GatewayApp, build_gateway
from tests.support.world import SETTINGS, World


class ServedService:
    """A service that listens on an address. Its parts run in their own thread."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        """Nothing runs yet."""
        self.settings = settings
        self.world: World
        self.gateway: GatewayApp
        self._ready = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="served")
        self._server: uvicorn.Server

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port that it listens on."""
        host, port = self._socket.getsockname()
        return host, port

    @property
    def url(self) -> str:
        """The address as a URL."""
        return "http://{}:{}".format(*self.address)

    async def _serve(self) -> None:
        self.world = World(clock=SystemClock(), settings=self.settings)  # type: ignore[arg-type]
        self.world.runner.step_seconds = 0.001
        consumer = await self.world.start()
        log = MemoryLog(self.world.broker)
        self.gateway = build_gateway(self.settings, task_log=log, store=self.world.store, clock=SystemClock())
        self._server = uvicorn.Server(
            uvicorn.Config(
                self.gateway.app, http=StrictConnection, log_config=None, access_log=False, timeout_keep_alive=75
            )
        )
        serving = asyncio.ensure_future(self._server.serve([self._socket]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.01)
        self._ready.set()
        await serving
        await consumer.kill()

    @contextlib.contextmanager
    def running(self) -> Iterator["ServedService"]:
        """Run the service until the end of the block."""
        self._thread.start()
        assert self._ready.wait(60)
        try:
            yield self
        finally:
            self._server.should_exit = True
            self._thread.join(60)
