"""A real Kafka and a real S3 server for the whole suite, on free ports, started by the first test that needs them."""

from collections.abc import Iterator

import pytest

from infra.local.ports import free_ports
from infra.local.process import Process
from infra.local.servers import S3, Kafka
from tests.support.servers import KafkaServer, S3Server


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A real broker. Every test has its own topics on it."""
    port, controller_port = free_ports(2)
    server = Kafka(tmp_path_factory.mktemp("kafka"), port, controller_port)
    with Process(server.part(), server.folder / "log.txt").running():
        yield KafkaServer(server.bootstrap)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server. Every test has its own bucket on it."""
    server = S3(tmp_path_factory.mktemp("s3"), free_ports(1)[0])
    with Process(server.part(), server.folder / "log.txt").running():
        yield S3Server(server.endpoint_url, server.env["AWS_ACCESS_KEY_ID"], server.env["AWS_SECRET_ACCESS_KEY"])
