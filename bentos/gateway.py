"""The gateway as a BentoML service: `bentoml serve bentos.gateway:GatewayService --port 8000`."""

import asyncio
import logging
import signal
from collections.abc import Callable
from types import FrameType

import bentoml

from adapters.clock import SystemClock
from adapters.kafka_log import KafkaLog
from adapters.s3_store import S3Store
from bentos.door import Door, Opened
from config.logging import configure_logging
from config.settings import load_settings
from functions.api.app import wire

_opened = Opened()


@bentoml.service(
    name="ai-image-gen-gateway",
    workers=1,
    traffic={"timeout": 3600},
    metrics={"enabled": False},
    # Unused tracing and access logging halve the throughput.
    tracing={"excluded_urls": ".*"},
    logging={"access": {"enabled": False}},
)
class GatewayService:
    """Submit, status, pictures, cancel, events, models."""

    @bentoml.on_startup
    async def open(self) -> None:
        """Connect and serve."""
        settings = load_settings()
        configure_logging(settings, "api")
        logging.getLogger("api").info("gateway starts: kafka %s", settings.kafka_bootstrap_servers)
        gateway = wire(settings, task_log=KafkaLog(settings), store=S3Store(settings), clock=SystemClock())
        await _opened.open(gateway.app)
        _before_sigterm(gateway.follower.stop_waiting)

    @bentoml.on_shutdown
    async def close(self) -> None:
        """End open waits, flush, close."""
        await _opened.close()


def _before_sigterm(act: Callable[[], None]) -> None:
    # The server first lets open requests end, a minute where a caller waits, and only then runs the shutdown hook.
    loop = asyncio.get_running_loop()
    server = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(act)
        if callable(server):
            server(number, frame)

    signal.signal(signal.SIGTERM, handle)


GatewayService.add_asgi_middleware(Door, opened=_opened)  # type: ignore[attr-defined]
