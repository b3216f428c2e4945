"""Settings for a test on the real broker: tests share the broker and have their own topics."""

import uuid

from config.settings import Settings

PARTITIONS = 4


def kafka_settings(bootstrap: str) -> Settings:
    """Settings with a new topic prefix and a new consumer group."""
    prefix = f"t{uuid.uuid4().hex[:8]}"
    return Settings(
        kafka_bootstrap_servers=bootstrap,
        kafka_topic_prefix=prefix,
        kafka_group=f"{prefix}.group",
        kafka_partitions=PARTITIONS,
    )
