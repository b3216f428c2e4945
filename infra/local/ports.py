"""Which ports the parts of `make run` have, and free ones for everything else that is started."""

import contextlib
import os
import random
import socket

from infra.local.servers import HOST

PORTS = {
    "GATEWAY_PORT": 8000,
    "CONSUMER_PORT": 8001,
    "KAFKA_PORT": 9092,
    "KAFKA_CONTROLLER_PORT": 9093,
    "S3_PORT": 9000,
    "FIRST_RUNNER_PORT": 3001,
}
"""Every port of `make run` and its default."""
_LAST = 65535


def port(name: str) -> int:
    """The port of a part, which the environment may move, e.g. GATEWAY_PORT=8080. Raises ValueError with a sentence."""
    value = os.environ.get(name) or str(PORTS[name])
    if not value.isdecimal() or int(value) > _LAST:
        raise ValueError(f"{name} must be a port, a number up to {_LAST}, not {value!r}.")
    return int(value)


def ports(runners: int) -> dict[str, int]:
    """Every port that must be free, by what it is for. Raises ValueError with a sentence."""
    first = port("FIRST_RUNNER_PORT")
    if first + runners - 1 > _LAST:
        raise ValueError(f"FIRST_RUNNER_PORT must leave room for {runners} ports up to {_LAST}, not be {first}.")
    return {
        "the gateway (GATEWAY_PORT)": port("GATEWAY_PORT"),
        "the consumer (CONSUMER_PORT)": port("CONSUMER_PORT"),
        "Kafka (KAFKA_PORT)": port("KAFKA_PORT"),
        "Kafka's controller (KAFKA_CONTROLLER_PORT)": port("KAFKA_CONTROLLER_PORT"),
        "S3 (S3_PORT)": port("S3_PORT"),
        **{f"runner {n + 1} (FIRST_RUNNER_PORT)": first + n if first else 0 for n in range(runners)},
    }


def free_ports(count: int) -> list[int]:
    """Ports in a row that nobody listens on just now, below those the system gives to outgoing connections."""
    while True:
        first = random.randrange(15_000, 32_000 - count)
        row = list(range(first, first + count))
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for number in row:
                probe = held.enter_context(socket.socket())
                probe.bind((HOST, number))
            return row
