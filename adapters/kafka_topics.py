"""The topics: creates the missing ones and refuses existing ones that cannot work together."""

import time
from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from adapters.kafka_client import Connectivity, client_config
from config.settings import Settings

_DAY_MS = 24 * 3600 * 1000
_COMPACT = {
    # With Kafka's defaults (segments of 1 GiB, compaction when half is dirty) topics this small are never compacted.
    "segment.ms": "3600000",
    "min.cleanable.dirty.ratio": "0.1",
    "max.compaction.lag.ms": str(_DAY_MS),
}
_APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}
_EVENTS = {"cleanup.policy": "compact,delete", "retention.ms": str(7 * _DAY_MS), **_COMPACT, **_APPEND_TIME}
_LANE = {"cleanup.policy": "delete", "retention.ms": str(7 * _DAY_MS), **_APPEND_TIME}
_MODELS = {"cleanup.policy": "compact", **_COMPACT}
# Segments are deleted as a whole, and a segment in use is only closed when it is `segment.ms` old.
_PREVIEWS = {"cleanup.policy": "delete", "retention.ms": "600000", "segment.ms": "60000", **_APPEND_TIME}
LARGEST_RECORD = 2 * 1024**2
"""The largest dead letter, in bytes: the largest record a lane takes (Kafka's default, 1 MiB), plus the headers."""
_DEAD_LETTER = {"cleanup.policy": "delete", "retention.ms": str(30 * _DAY_MS), "max.message.bytes": str(LARGEST_RECORD)}
_WAIT_SECONDS = 15.0


def create_topics(settings: Settings) -> None:
    """Create every missing topic and wait until the brokers list them all. Exits with a sentence if existing topics
    cannot work together. Existing topics are not changed."""
    topics = dict.fromkeys(settings.lane_names, (settings.kafka_partitions, _LANE)) | {
        settings.topic("events"): (settings.kafka_partitions, _EVENTS),
        settings.topic("models"): (1, _MODELS),
        settings.topic("previews"): (settings.kafka_partitions, _PREVIEWS),
        settings.topic("dead_letter"): (1, _DEAD_LETTER),
    }
    admin = AdminClient(client_config(settings, Connectivity()))
    new = [
        NewTopic(name, num_partitions=count, replication_factor=settings.kafka_replication, config=dict(config))
        for name, (count, config) in topics.items()
    ]
    for future in admin.create_topics(new, operation_timeout=_WAIT_SECONDS).values():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    _check(settings, _wait_for(admin, topics.keys()))


def partition_counts(admin: AdminClient, timeout: float) -> dict[str, int]:
    """The number of partitions of every topic, by full name."""
    topics = admin.list_topics(timeout=timeout).topics
    return {name: len(topic.partitions) for name, topic in topics.items() if topic.error is None}


def _wait_for(admin: AdminClient, names: Iterable[str]) -> dict[str, int]:
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        counts = partition_counts(admin, _WAIT_SECONDS)
        missing = [name for name in names if not counts.get(name)]
        if not missing:
            return counts
        if time.monotonic() > deadline:
            raise SystemExit(
                f"Kafka does not list the topics {', '.join(missing)} {_WAIT_SECONDS:g} s after creating them."
            )
        time.sleep(0.05)


def _check(settings: Settings, counts: Mapping[str, int]) -> None:
    shared = {name: counts[name] for name in (*settings.lane_names, settings.topic("events"))}
    if len(set(shared.values())) > 1:
        differences = ", ".join(f"{name} has {count}" for name, count in shared.items())
        raise SystemExit(
            f"All lanes and {settings.topic('events')} must have the same number of partitions, but {differences}. "
            "Delete the topics with the wrong number, or choose another KAFKA_TOPIC_PREFIX."
        )
