"""A Knative KafkaSource sends one CloudEvent a request to `python -m functions.consume.knative`.

The answer is 204 once the task has its outcome. The source delivers the record again after an answer of 500 or more,
after 404, 409 and 429, and after no answer at all. Every other answer counts as delivered: a request that holds no
record of a lane gets one, so it is not sent for ever. infra/knative/ has an example.
"""

import asyncio
import base64
import json
import logging
import re
import signal
from collections.abc import Mapping, Sequence
from datetime import datetime

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from config.logging import configure_logging
from config.settings import Settings, load_settings
from functions.consume.triggers.push import MARGIN_SECONDS, OutOfTime, PushConsumer, open_push_consumer
from tasks.errors import BROWSER_RULES, InvalidRequest, NotUnderstood, TaskError
from tasks.log import Place, Record
from tasks.names import find_lane

logger = logging.getLogger(__name__)

EVENT_TYPE = "dev.knative.kafka.event"
_HEADER = "ce-kafkaheader"
_ID = re.compile(r"partition:(\d+)/offset:(\d+)")


STRUCTURED = "application/cloudevents+json"
"""The content type of an event in structured mode: attributes and data in one JSON object."""


def record_of(headers: Mapping[str, str], body: bytes, lanes: Sequence[str]) -> Record:
    """The record inside a CloudEvent, which a KafkaSource sends in binary mode and other senders may send in structured
    mode. Header names in lower case. Raises InvalidRequest, UnknownLane."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() == STRUCTURED:
        headers, body = _unpacked(body)
    position = _ID.fullmatch(headers.get("ce-id", ""))
    _, hash_sign, topic = headers.get("ce-source", "").rpartition("#")
    if headers.get("ce-type") != EVENT_TYPE or position is None or not hash_sign:
        raise InvalidRequest(f"This takes only CloudEvents of type {EVENT_TYPE}, as a KafkaSource sends them.")
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


def _unpacked(body: bytes) -> tuple[Mapping[str, str], bytes]:
    """The headers and the body that an event in structured mode has in binary mode."""
    try:
        event = dict(json.loads(body))
        encoded = event.get("data_base64")
        data = json.dumps(event.get("data")).encode() if encoded is None else base64.b64decode(encoded, validate=True)
    except (TypeError, ValueError) as error:
        raise InvalidRequest("The body is not a CloudEvent in structured mode.") from error
    return {f"ce-{name}".lower(): value for name, value in event.items() if isinstance(value, str)}, data


def application(push: PushConsumer, seconds: float) -> web.Application:
    """The HTTP endpoint that the source calls, with health and metrics. A task without an outcome after this many
    seconds is given back to the source."""

    async def take(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            record = record_of(headers, await request.read(), push.lanes)
            await push.finish(record, seconds)
        except OutOfTime:
            return web.Response(status=503, headers={"Retry-After": "1"})
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
        site = web.AppRunner(
            application(push, settings.knative_timeout - MARGIN_SECONDS),
            access_log=None,
            shutdown_timeout=settings.consumer_grace,
        )
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
