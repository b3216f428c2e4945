"""A Knative KafkaSource sends one CloudEvent a request to `python -m functions.consume.knative`.

The answer is 204 once the task has its outcome, so the source's delivery timeout must exceed the longest task. After
any other answer the source delivers the record again.
"""

import asyncio
import logging
import re
import signal
from collections.abc import Mapping, Sequence
from datetime import datetime

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from config.logging import configure_logging
from config.settings import Settings, load_settings
from functions.consume.triggers.push import PushConsumer, open_push_consumer
from tasks.errors import BROWSER_RULES, InvalidRequest, NotUnderstood, TaskError
from tasks.log import Place, Record
from tasks.names import find_lane

logger = logging.getLogger(__name__)

EVENT_TYPE = "dev.knative.kafka.event"
_HEADER = "ce-kafkaheader"
_ID = re.compile(r"partition:(\d+)/offset:(\d+)")


def record_of(headers: Mapping[str, str], body: bytes, lanes: Sequence[str]) -> Record:
    """The record inside a CloudEvent in binary mode; header names in lower case. Raises InvalidRequest, UnknownLane."""
    position = _ID.fullmatch(headers.get("ce-id", ""))
    _, hash_sign, topic = headers.get("ce-source", "").rpartition("#")
    if headers.get("ce-type") != EVENT_TYPE or position is None or not hash_sign:
        raise InvalidRequest(f"This takes only CloudEvents of type {EVENT_TYPE} in binary mode, as KafkaSource sends.")
    try:
        timestamp = datetime.fromisoformat(headers.get("ce-time", "")).timestamp()
    except ValueError as error:
        raise InvalidRequest("ce-time is not a time as RFC 3339 writes it.", field="ce-time") from error
    return Record(
        kind="task",
        place=Place(find_lane(topic, lanes), int(position[1]), int(position[2])),
        timestamp=timestamp,
        key=headers.get("ce-key", ""),
        value=body,
        headers={
            name.removeprefix(_HEADER): value.encode() for name, value in headers.items() if name.startswith(_HEADER)
        },
    )


def application(push: PushConsumer) -> web.Application:
    """The HTTP endpoint that the source calls, with health and metrics."""

    async def take(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            record = record_of(headers, await request.read(), push.lanes)
            await push.finish(record)
        except NotUnderstood as error:
            # 503, so that the source delivers the record again: perhaps to a newer version.
            return _problem(error, 503, {"Retry-After": f"{error.retry_after or 1:.0f}"})
        except TaskError as error:
            return _problem(error, error.status)
        return web.Response(status=204)

    async def live(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(push.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.post("/", take), web.get("/livez", live), web.get("/readyz", live)])
    app.add_routes([web.get("/metrics", metrics)])
    return app


def _problem(error: TaskError, status: int, headers: Mapping[str, str] | None = None) -> web.Response:
    headers = {**BROWSER_RULES, **(headers or {})}
    return web.json_response(error.problem(), status=status, headers=headers, content_type="application/problem+json")


async def serve(settings: Settings) -> None:
    """Take events until SIGTERM or SIGINT; tasks that still run then get CONSUMER_GRACE seconds to end."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_push_consumer(settings) as push:
        site = web.AppRunner(application(push), access_log=None, shutdown_timeout=settings.consumer_grace)
        await site.setup()
        await web.TCPSite(site, settings.listen_host, settings.consumer_port).start()
        logger.info("ready for events on port %s", settings.consumer_port)
        await stop.wait()
        await site.cleanup()


def main() -> None:
    """Read the settings and serve events."""
    settings = load_settings()
    configure_logging(settings, "consumer_knative")
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
