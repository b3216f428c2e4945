"""The long-running worker: `python -m functions.consume`. Settings, signals, HTTP site. The rest is in consumer.py."""

import asyncio
import logging
import signal

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

logger = logging.getLogger("consumer")


async def serve(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then shut down in order: start no task, leave the group, give running attempts
    CONSUMER_GRACE seconds to end, release the rest. A second signal cuts the grace short."""
    store = S3Store(settings)
    async with runner_session(settings.runner_secret) as session:
        consumer = build_consumer(
            settings,
            task_log=KafkaLog(settings),
            store=store,
            clock=SystemClock(),
            addresses=lambda: resolve(settings.runner_urls),
            connect=lambda url: HttpRunner(url, session),
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, consumer.stop)
        site = await _site(consumer, settings)
        try:
            await _store_answers(store, consumer)
            await consumer.run()
        finally:
            await site.cleanup()
            store.close()
    logger.info("stopped")


async def _store_answers(store: S3Store, consumer: Consumer) -> None:
    """Return once the store answers or the consumer is stopped."""
    checked = asyncio.ensure_future(_check(store))
    stopped = asyncio.ensure_future(consumer.stop_requested.wait())
    try:
        await asyncio.wait((checked, stopped), return_when=asyncio.FIRST_COMPLETED)
        if checked.done():
            checked.result()
    finally:
        checked.cancel()
        stopped.cancel()


async def _check(store: S3Store) -> None:
    while True:
        try:
            return await store.check()
        except StoreUnavailable:
            await asyncio.sleep(1)


async def _site(consumer: Consumer, settings: Settings) -> web.AppRunner:
    async def live(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def ready(_: web.Request) -> web.Response:
        missing = consumer.missing()
        return web.json_response({"missing": missing}, status=503 if missing else 200)

    async def metrics(_: web.Request) -> web.Response:
        consumer.measure()
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
    """Read the settings and run the worker."""
    settings = load_settings()
    configure_logging(settings, "consumer_worker")
    lanes = ", ".join(settings.lane_names)
    logger.info("consumer starts: kafka %s, lanes %s", settings.kafka_bootstrap_servers, lanes)
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
