"""A real Kafka and a real S3 server for the whole suite, on free ports, started by the first test that asks."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.local.servers import ACCESS_KEY, HOST, S3, SECRET_KEY, Kafka

START_SECONDS = 90.0


@dataclass(frozen=True)
class KafkaServer:
    """The suite's broker."""

    bootstrap: str


@dataclass(frozen=True)
class S3Server:
    """The suite's store."""

    endpoint_url: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY


def free_ports(count: int) -> list[int]:
    """Ports in a row that nobody listens on just now, below those the system gives to outgoing connections."""
    while True:
        first = random.randrange(15_000, 32_000 - count)
        ports = list(range(first, first + count))
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in ports:
                probe = held.enter_context(socket.socket())
                probe.bind((HOST, port))
            return ports


@contextmanager
def running(server: Kafka | S3) -> Iterator[None]:
    """The server as a process group of its own, ready; killed at the end, for its folder is thrown away."""
    log = server.folder / "log.txt"
    command = server.command()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not server.ready():
            assert process.poll() is None, f"{server} died:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{server} not ready in {START_SECONDS} s:\n{log.read_text()[-3000:]}"
            time.sleep(0.05)
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A real broker; every test names topics of its own on it."""
    port, controller_port = free_ports(2)
    server = Kafka(_folder(tmp_path_factory, "kafka"), port, controller_port)
    with running(server):
        yield KafkaServer(server.bootstrap)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server; every test names a bucket of its own on it."""
    server = S3(_folder(tmp_path_factory, "s3"), free_ports(1)[0])
    with running(server):
        yield S3Server(server.endpoint_url)


def _folder(factory: pytest.TempPathFactory, name: str) -> Path:
    return factory.mktemp(name)
