"""The long-running worker: `python -m functions.consume`."""

import asyncio
import logging
import signal
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from adapters.clock import SystemClock
from adapters.kafka_log import KafkaLog
from adapters.runner_client import HttpRunner, resolve, runner_session
from adapters.s3_store import S3Store
from config.logging import configure_logging
from config.settings import Settings, load_settings
from functions.consume.consumer import Consumer, build_consumer
from tasks.errors import StoreUnavailable

log = logging.getLogger("consumer")

_PRUNE_SECONDS = 600.0
_KEEP_SECONDS = 3600.0
"""How long the view remembers an ended task, against its record being read again."""


async def serve(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then end in order: take nothing more and leave what is queued to others, let
    running tasks end, say goodbye. A second signal cuts the running tasks short."""
    clock = SystemClock()
    kafka = KafkaLog(settings)
    store = S3Store(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with runner_session() as session:
        consumer = build_consumer(
            settings,
            log=kafka,
            store=store,
            clock=clock,
            addresses=lambda: resolve(settings.runner_urls),
            connect=lambda url: HttpRunner(url, session),
        )

        def signaled() -> None:
            if stop.is_set():
                consumer.dispatcher.hurry()
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signaled)
        site = await _site(consumer, settings, stop)
        stopped: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
        checked: asyncio.Future[Any] = asyncio.ensure_future(_check(store))
        await asyncio.wait([stopped, checked], return_when=asyncio.FIRST_COMPLETED)
        work: list[asyncio.Future[Any]] = []
        if checked.done():
            checked.result()
            lasting = (consumer.dispatcher.run(), consumer.pool.watch(), _prune(consumer, clock))
            work = [asyncio.ensure_future(one) for one in lasting]
            await asyncio.wait((stopped, *work), return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping")
        consumer.dispatcher.take_no_more()
        ended = [part for part in work if part.done()]
        for part in work:
            part.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await consumer.dispatcher.stop(settings.consumer_grace)
        await kafka.close()
        await site.cleanup()
        store.close()
        checked.cancel()
        stopped.cancel()
        for part in ended:
            part.result()
    log.info("stopped")


async def _check(store: S3Store) -> None:
    while True:
        try:
            return await store.check()
        except StoreUnavailable:
            await asyncio.sleep(1)


async def _prune(consumer: Consumer, clock: SystemClock) -> None:
    while True:
        await clock.sleep(_PRUNE_SECONDS)
        consumer.view.prune(clock.now() - _KEEP_SECONDS)


async def _site(consumer: Consumer, settings: Settings, stop: asyncio.Event) -> web.AppRunner:
    async def live(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def ready(_: web.Request) -> web.Response:
        if stop.is_set():
            return web.json_response({"missing": ["this consumer, which is about to end"]}, status=503)
        missing = [] if consumer.dispatcher.ready else ["partitions of the queue"]
        if not any(card.runners for card in consumer.pool.cards().values()):
            missing.append("a runner")
        return web.json_response({"missing": missing}, status=503 if missing else 200)

    async def metrics(_: web.Request) -> web.Response:
        consumer.dispatcher.measure()
        return web.Response(
            body=generate_latest(consumer.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    app = web.Application()
    app.add_routes([web.get("/livez", live), web.get("/readyz", ready), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, settings.listen_host, settings.consumer_port).start()
    return runner


def main() -> None:
    """Read the settings and work."""
    settings = load_settings()
    configure_logging(settings, "consumer_worker")
    log.info("consumer starts: kafka %s, lanes %s", settings.kafka_bootstrap_servers, ", ".join(settings.lane_names))
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
