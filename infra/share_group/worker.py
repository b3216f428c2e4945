"""An example, no part of the service: a worker that reads the lanes through a share group (KIP-932).

`python -m infra.share_group.worker`. The broker hands each record to one member for LOCK_SECONDS, whatever partition it
is in, so there may be more members than partitions. It is an example only, because share consumers are a preview in
this client and cannot renew a lock: docs/triggers.md says what that costs.
"""

import asyncio
import logging
import signal
from collections.abc import Mapping, Sequence

from confluent_kafka import AcknowledgeType, Message, ShareConsumer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from adapters.kafka_client import Connectivity, client_config
from adapters.kafka_record import record_kinds, to_record
from config.logging import configure_logging
from config.settings import Settings, load_settings
from functions.consume.triggers.push import PushConsumer, open_push_consumer
from tasks.log import RecordKind

logger = logging.getLogger(__name__)

LOCK_SECONDS = 60.0
"""How long a record is locked for the member that it was handed to. Brokers allow no more by default
(group.share.max.record.lock.duration.ms)."""
MARGIN_SECONDS = 10.0
"""Seconds before the lock ends at which unfinished tasks are given back."""
DELIVERIES = 10
"""How often the broker hands a record out. It drops the record after that, so this worker writes a record that is still
unfinished at its last delivery to the dead letters."""
POLL_SECONDS = 1.0


def group_name(settings: Settings) -> str:
    """The share group. A group cannot be a consumer group and a share group at once, so it has a name of its own."""
    return f"{settings.kafka_group}.share"


def configure_group(settings: Settings) -> None:
    """Set how the group reads: from the oldest record on, with these locks. Raises KafkaException if the broker does
    not know share groups."""
    config = {
        "share.auto.offset.reset": "earliest",
        "share.record.lock.duration.ms": f"{LOCK_SECONDS * 1000:.0f}",
        "share.delivery.count.limit": str(DELIVERIES),
    }
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()]
    resource = ConfigResource(ResourceType.GROUP, group_name(settings), incremental_configs=entries)
    admin = AdminClient(client_config(settings, Connectivity()))
    for future in admin.incremental_alter_configs([resource], request_timeout=settings.kafka_timeout).values():
        future.result()


async def work(settings: Settings, stop: asyncio.Event) -> None:
    """Take records until `stop` is set; a task that runs then goes on to its end or to the end of its lock."""
    configure_group(settings)
    kinds = record_kinds(settings)
    async with open_push_consumer(settings) as push:
        consumer = ShareConsumer(
            client_config(
                settings,
                Connectivity(),
                **{
                    "group.id": group_name(settings),
                    "share.acknowledgement.mode": "explicit",
                    # The records of one poll are all locked now, so no more than can be done together. A batch of a
                    # producer is handed out whole all the same.
                    "max.poll.records": 4,
                    "max.poll.interval.ms": int(2 * LOCK_SECONDS * 1000),
                },
            )
        )
        try:
            consumer.subscribe(list(settings.lane_names))
            logger.info("share group %s", group_name(settings))
            while not stop.is_set():
                # The client allows calls from any thread, one at a time.
                messages = [
                    message
                    for message in await asyncio.to_thread(consumer.poll, POLL_SECONDS)
                    if message.error() is None
                ]
                if messages:
                    for message, kind in await _finish(push, messages, kinds):
                        consumer.acknowledge(message, kind)
                    await asyncio.to_thread(consumer.commit_sync, settings.kafka_timeout)
        finally:
            await asyncio.to_thread(consumer.close)


async def _finish(
    push: PushConsumer, messages: Sequence[Message], kinds: Mapping[str, RecordKind]
) -> list[tuple[Message, AcknowledgeType]]:
    """Bring the tasks to their outcomes, and say how each message is acknowledged."""
    records = [to_record(message, kinds) for message in messages]
    left = await push.finish_all(records, LOCK_SECONDS - MARGIN_SECONDS)
    acknowledged = []
    for message, record in zip(messages, records, strict=True):
        kind = AcknowledgeType.ACCEPT
        if record in left and message.delivery_count() < DELIVERIES:
            kind = AcknowledgeType.RELEASE
        elif record in left:
            await push.dead_letter(record, f"The task had no outcome after {DELIVERIES} deliveries.")
        acknowledged.append((message, kind))
    return acknowledged


async def serve(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await work(settings, stop)


def main() -> None:
    """Read the settings and work."""
    settings = load_settings()
    configure_logging(settings, "consumer_share_group")
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
