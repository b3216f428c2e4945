"""What every Kafka client of ours shares: its settings, and one log line when the brokers go and one when they come."""

import logging
from typing import Any

from confluent_kafka import KafkaError

from config.settings import Settings, kafka_config

log = logging.getLogger(__name__)


class Outage:
    """Says once that the brokers are away, and once that they are back."""

    def __init__(self) -> None:
        """Assumes they are there."""
        self.away = False

    def error(self, error: KafkaError) -> None:
        """A client could not reach something; librdkafka calls this about twenty times a second while it lasts."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN and not self.away:
            self.away = True
            log.warning("kafka is away: %s", error.str())
        elif error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL):
            log.error("kafka refuses us: %s", error.str())

    def works(self) -> None:
        """Something came through."""
        if self.away:
            self.away = False
            log.info("kafka is back")


def client_config(settings: Settings, outage: Outage, **more: Any) -> dict[str, Any]:
    """The librdkafka settings of a client; what KAFKA_CONFIG_* says wins."""
    quiet = logging.getLogger("librdkafka")
    quiet.setLevel(logging.CRITICAL)
    return {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "client.id": "ai-image-gen",
        "error_cb": outage.error,
        "logger": quiet,
        "socket.keepalive.enable": True,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 500,
        **more,
        **kafka_config(),
    }
