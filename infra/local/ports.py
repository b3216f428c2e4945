"""The ports of the parts of `make run`, and free ports for tests and measurements."""

import contextlib
import os
import random
import socket

from infra.local.servers import HOST

PORTS = {
    "GATEWAY_PORT": (8000, "the gateway"),
    "CONSUMER_PORT": (8001, "the consumer"),
    "KAFKA_PORT": (9092, "Kafka"),
    "KAFKA_CONTROLLER_PORT": (9093, "Kafka's controller"),
    "S3_PORT": (9000, "S3"),
    "FIRST_RUNNER_PORT": (3001, "the first runner; the others follow"),
}
"""Every port setting of `make run`: its default, and what listens there."""
_LAST = 65535


def port(name: str) -> int:
    """The port that the environment gives a part, or its default. Raises ValueError with a sentence."""
    value = os.environ.get(name) or str(PORTS[name][0])
    if not value.isdecimal() or int(value) > _LAST:
        raise ValueError(f"{name} must be a port, a number up to {_LAST}, not {value!r}.")
    return int(value)


def ports(runners: int) -> dict[str, int]:
    """Every port that must be free, by its purpose in words. Raises ValueError with a sentence."""
    first = port("FIRST_RUNNER_PORT")
    if first + runners - 1 > _LAST:
        raise ValueError(f"FIRST_RUNNER_PORT must leave room for {runners} ports up to {_LAST}, not be {first}.")
    return {
        **{f"{what} ({name})": port(name) for name, (_, what) in PORTS.items() if name != "FIRST_RUNNER_PORT"},
        **{f"runner {n + 1} (FIRST_RUNNER_PORT)": first + n if first else 0 for n in range(runners)},
    }


def free_ports(count: int) -> list[int]:
    """Consecutive ports on which no process listens now, below those that the system uses for outgoing connections."""
    while True:
        first = random.randrange(15_000, 32_000 - count)
        numbers = list(range(first, first + count))
        with contextlib.ExitStack() as sockets, contextlib.suppress(OSError):
            for number in numbers:
                sockets.enter_context(socket.socket()).bind((HOST, number))
            return numbers
