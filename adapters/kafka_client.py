"""What every Kafka client of ours shares: its settings, and one log line when the brokers go and one when they come."""

import logging
from typing import Any

from confluent_kafka import KafkaError

from config.settings import Settings, kafka_config

log = logging.getLogger(__name__)

_AWAY = (KafkaError._ALL_BROKERS_DOWN, KafkaError._MSG_TIMED_OUT, KafkaError._AUTHENTICATION, KafkaError._SSL)
"""No connection, one that nobody answers, or one that is refused."""


class Connectivity:
    """Whether the brokers are away; says so once, and once that they are back.

    An error alone is no proof: librdkafka calls all brokers down also where an idle connection was closed.
    """

    def __init__(self) -> None:
        """Assumes they are there."""
        self.away = False
        self.answers = 0
        """How often something came through."""
        self._doubt = ""

    @property
    def doubted(self) -> bool:
        """Whether somebody should ask the brokers, and say `works` or `fails`."""
        return bool(self._doubt)

    def error(self, error: KafkaError) -> None:
        """A client could not reach something; librdkafka calls this about twenty times a second while it lasts."""
        if error.code() in _AWAY:
            self._doubt = error.str()

    def works(self) -> None:
        """Something came through."""
        self.answers += 1
        self._doubt = ""
        if self.away:
            self.away = False
            log.info("kafka is back")

    def fails(self, answers: int) -> None:
        """The brokers were asked, when there had been so many answers, and did not answer."""
        if self._doubt and not self.away and answers == self.answers:
            self.away = True
            log.warning("kafka is away: %s", self._doubt)


def client_config(settings: Settings, outage: Connectivity, **more: Any) -> dict[str, Any]:
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
