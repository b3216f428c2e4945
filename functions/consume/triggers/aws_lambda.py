"""AWS Lambda with a Kafka event source (Amazon MSK or self-managed): `functions.consume.lambda_.handler`.

The event source mapping needs ReportBatchItemFailures; its batch should be no larger than what fits the timeout.
"""

import asyncio
import base64
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

from config.logging import configure_logging
from config.settings import load_settings
from functions.consume.triggers.push import PushConsumer, open_push_consumer
from tasks.accept import find_lane
from tasks.log import Place, Record

MARGIN_SECONDS = 5.0
"""Kept of the function's time to give back what did not end in it."""


class Context(Protocol):
    """What the platform says about this call."""

    def get_remaining_time_in_millis(self) -> int:
        """Until the platform ends the process."""
        ...


def handler(event: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Bring every task of the batch to its outcome; the first of each partition that got none, the platform hands over
    again together with all that follow it."""
    loop, _, fed = _environment()
    return loop.run(answer(fed, event, context.get_remaining_time_in_millis() / 1000 - MARGIN_SECONDS))


async def answer(fed: PushConsumer, event: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What `handler` answers. Raises UnknownLane where the mapping reads a topic that is no lane."""
    records = list(records_of(event, fed.lanes))
    await fed.look()
    return {"batchItemFailures": list(_failures(await fed.finish_all(records, seconds)))}


def records_of(event: Mapping[str, Any], lanes: Sequence[str]) -> Iterator[Record]:
    """The records of a platform event. Raises UnknownLane."""
    for batch in event["records"].values():
        for item in batch:
            place = Place(find_lane(item["topic"], lanes), item["partition"], item["offset"])
            yield Record(
                kind="task",
                place=place,
                timestamp=item["timestamp"] / 1000,
                key=base64.b64decode(item.get("key") or "").decode("utf-8", "replace"),
                value=base64.b64decode(item.get("value") or ""),
                # Java's bytes, so they may be negative.
                headers={
                    name: bytes(byte & 0xFF for byte in value)
                    for header in item.get("headers", ())
                    for name, value in header.items()
                },
            )


def _failures(left: Sequence[Record]) -> Iterator[dict[str, Any]]:
    first: dict[str, int] = {}
    for record in left:
        name = f"{record.place.topic}-{record.place.partition}"
        first[name] = min(record.place.offset, first.get(name, record.place.offset))
    for name, offset in first.items():
        yield {"itemIdentifier": {"partition": name, "offset": offset}}


@functools.cache
def _environment() -> tuple[asyncio.Runner, AsyncExitStack, PushConsumer]:
    """Made at the first call and kept while the process is warm; the stack is held so that nothing closes."""
    settings = load_settings()
    # The disk is read-only there, and the platform collects standard output.
    configure_logging(settings.model_copy(update={"log_dir": Path("-")}), "consumer_lambda")
    loop, stack = asyncio.Runner(), AsyncExitStack()
    return loop, stack, loop.run(stack.enter_async_context(open_push_consumer(settings)))
