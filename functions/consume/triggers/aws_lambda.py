"""AWS Lambda with a Kafka event source (Amazon MSK or self-managed): `functions.consume.lambda_.handler`.

The event source mapping needs ReportBatchItemFailures, or LAMBDA_PARTIAL_FAILURES must be false: Lambda takes an answer
that names failures for success if the mapping does not ask for them. infra/lambda/ has a template.
"""

import asyncio
import base64
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from config.logging import configure_logging
from config.settings import load_settings
from functions.consume.triggers.push import MARGIN_SECONDS, OutOfTime, PushConsumer, open_push_consumer
from tasks.log import Place, Record
from tasks.names import find_lane


class Context(Protocol):
    """The part of Lambda's context object that is used here."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the platform ends this call."""
        ...


def handler(event: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Bring every task of the batch to its outcome. The answer names, for each partition, the first record without one:
    the platform delivers that record and all after it again.

    If LAMBDA_PARTIAL_FAILURES is false, raises OutOfTime instead: the platform delivers the whole batch again, and the
    tasks that have an outcome are not run a second time.
    """
    environment = _environment()
    seconds = context.get_remaining_time_in_millis() / 1000 - MARGIN_SECONDS
    response = environment.loop.run(answer(environment.push, event, seconds))
    if response["batchItemFailures"] and not environment.partial_failures:
        raise OutOfTime(f"Records without an outcome: {response['batchItemFailures']}")
    return response


async def answer(push: PushConsumer, event: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What `handler` answers. Raises UnknownLane if the event source mapping reads a topic that is not a lane."""
    records = list(records_of(event, push.lanes))
    await push.look()
    return {"batchItemFailures": list(_failures(await push.finish_all(records, seconds)))}


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
                # Java's bytes are signed.
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


@dataclass(frozen=True)
class _Environment:
    """What a warm process keeps between two calls. The stack is kept so that nothing on it is closed."""

    loop: asyncio.Runner
    stack: AsyncExitStack
    push: PushConsumer
    partial_failures: bool


@functools.cache
def _environment() -> _Environment:
    """Built at the first call of the process."""
    settings = load_settings()
    # Lambda's disk is read-only, and the platform collects standard output.
    configure_logging(settings.model_copy(update={"log_dir": Path("-")}), "consumer_lambda")
    loop, stack = asyncio.Runner(), AsyncExitStack()
    push = loop.run(stack.enter_async_context(open_push_consumer(settings)))
    return _Environment(loop, stack, push, settings.lambda_partial_failures)
