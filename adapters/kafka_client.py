"""What all Kafka clients of a process share: their settings, and whether Kafka is available."""

import logging
from typing import Any

from confluent_kafka import KafkaError

from config.kafka_config import kafka_config
from config.settings import Settings

logger = logging.getLogger(__name__)

_NO_CONNECTION = (
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._MSG_TIMED_OUT,
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
)
"""Errors that mean: a connection cannot be made, the broker does not answer, or the broker refuses the connection."""


class Connectivity:
    """Whether Kafka is available, as all clients of this process see it. Logs one line when it becomes unavailable and
    one when it is available again.

    An error alone does not prove an outage: librdkafka also reports "all brokers down" when a broker closes an idle
    connection. So an error only raises a suspicion. One thread then asks a broker, and its answer decides.
    """

    def __init__(self) -> None:
        """Kafka counts as available until a broker was asked and did not answer."""
        self.unavailable = False
        self.successes = 0
        """How many answers have arrived from a broker."""
        self._suspicion = ""

    @property
    def suspected(self) -> bool:
        """Whether an error was reported after the last success, so that a broker must be asked."""
        return bool(self._suspicion)

    def report_error(self, error: KafkaError) -> None:
        """A client reports an error. During an outage librdkafka calls this about twenty times a second."""
        if error.code() in _NO_CONNECTION:
            self._suspicion = error.str()

    def report_success(self) -> None:
        """A broker answered."""
        self.successes += 1
        self._suspicion = ""
        if self.unavailable:
            self.unavailable = False
            logger.info("Kafka is available again")

    def report_no_answer(self, successes_before: int) -> None:
        """A broker was asked and did not answer. `successes_before` is the value of `successes` when it was asked. If
        another answer has arrived since then, Kafka is available."""
        if self._suspicion and not self.unavailable and successes_before == self.successes:
            self.unavailable = True
            logger.warning("Kafka is unavailable: %s", self._suspicion)


def client_config(settings: Settings, connectivity: Connectivity, **more: Any) -> dict[str, Any]:
    """The librdkafka settings of a client. The settings KAFKA_CONFIG_* override all others."""
    librdkafka_logger = logging.getLogger("librdkafka")
    librdkafka_logger.setLevel(
        logging.CRITICAL
    )  # Connectivity logs an outage once; librdkafka would log it all the time
    return {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "client.id": "ai-image-gen",
        "error_cb": connectivity.report_error,
        "logger": librdkafka_logger,
        "socket.keepalive.enable": True,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 500,
        **more,
        **kafka_config(),
    }
