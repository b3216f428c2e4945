"""The gateway as a BentoML service: `bentoml serve bentos.gateway:GatewayService --port 8000`."""

import asyncio
import gc
import logging

import bentoml

from adapters.clock import SystemClock
from adapters.kafka_log import KafkaLog
from adapters.s3_store import S3Store
from bentos.control import keep_control_inside
from bentos.hosting import HostedApp, RootMiddleware
from bentos.signals import end_at_second_signal
from bentos.slow_clients import limit_connections, serve_with_patience
from config.logging import configure_logging
from config.settings import load_settings
from functions.api.app import build_gateway, open_keys

_hosted = HostedApp()
# Also read at import, so that an unusable file ends the server at once. Otherwise the server would start one worker
# after the other, and each would end.
open_keys(load_settings())


@bentoml.service(
    name="ai-image-gen-gateway",
    workers=1,
    http={"host": load_settings().listen_host},  # BentoML's own default is every interface
    traffic={"timeout": 3600},
    metrics={"enabled": False},
    # Unused tracing and access logging halve the throughput.
    tracing={"excluded_urls": ".*"},
    logging={"access": {"enabled": False}},
)
class GatewayService:
    """Submit, status, images, cancel, events, models."""

    @bentoml.on_startup
    async def open(self) -> None:
        """Connect and serve."""
        settings = limit_connections(load_settings())
        configure_logging(settings, "api")
        logging.getLogger("api").info("gateway starts: kafka %s", settings.kafka_bootstrap_servers)
        store = S3Store(settings)
        _hosted.on_close(store.close)
        gateway = build_gateway(settings, task_log=KafkaLog(settings), store=store, clock=SystemClock())
        await _hosted.open(gateway.app)
        # What is loaded by now stays until the end. Looking for garbage among it would stop every request for 0.2 s.
        gc.collect()
        gc.freeze()

        async def leave() -> None:
            gateway.stop_waiting()
            await asyncio.sleep(settings.gateway_notice)

        _hosted.on_sigterm(leave, settings.gateway_grace)

    @bentoml.on_shutdown
    async def close(self) -> None:
        """Answer open waits, flush, close."""
        await _hosted.close()


serve_with_patience()
keep_control_inside()
end_at_second_signal()
GatewayService.add_asgi_middleware(RootMiddleware, hosted=_hosted)  # type: ignore[attr-defined]
