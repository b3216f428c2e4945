"""LOCAL_KAFKA_AUTH=1: the local broker and its controller let nobody in without the random password."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from infra.local import kafka_auth
from infra.local.kafka_auth import saved_login
from infra.local.ports import free_ports
from infra.local.process import Process
from infra.local.servers import Kafka
from tests.support.stack import Api, Stack, until
from tools.bench.stub_runner import MODEL

TOPIC = "from-before"


def topics(bootstrap: str, login: dict[str, str], seconds: float = 4.0) -> set[str]:
    """The topics that a client sees. Raises KafkaException if the broker does not let it in."""
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, **login})
    return set(client.list_topics(timeout=seconds).topics)


def answer_to_a_stranger(port: int) -> bytes:
    """What a client without a login gets that asks who leads the cluster (DescribeQuorum 0, which both ports know)."""
    topic = b"__cluster_metadata"
    header = struct.pack(">hhih", 55, 0, 1, -1) + b"\0"
    body = b"\2" + bytes([len(topic) + 1]) + topic + b"\2" + struct.pack(">i", 0) + b"\0\0\0"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(struct.pack(">i", len(header + body)) + header + body)
        try:
            return connection.recv(4096)
        except ConnectionResetError:
            return b""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker with a password, on data that a broker without one wrote."""
    folder = tmp_path_factory.mktemp("guarded") / "kafka"
    ports = free_ports(2)
    before = Kafka(folder, *ports)
    with Process(before.part(), folder / "log.txt").running() as process:
        admin = AdminClient({"bootstrap.servers": before.bootstrap})
        admin.create_topics([NewTopic(TOPIC, 1, 1)])[TOPIC].result(10)
        assert answer_to_a_stranger(before.controller_port)
        assert answer_to_a_stranger(before.port)
        process.terminate()
    server = Kafka(folder, *ports, auth=True)
    with Process(server.part(), folder / "log.txt").running():
        yield server


def login(server: Kafka) -> dict[str, str]:
    saved = saved_login(server.folder / "client.properties")
    assert saved is not None
    return saved.client


def test_data_from_before_the_password_is_still_there(guarded: Kafka) -> None:
    assert TOPIC in topics(guarded.bootstrap, login(guarded))


def refusal(bootstrap: str, login: dict[str, str]) -> str:
    """What a client hears from a broker that does not let it in."""
    errors: list[str] = []
    client = AdminClient(
        {"bootstrap.servers": bootstrap, "error_cb": lambda error: errors.append(str(error)), "log_level": 0, **login}
    )
    until(lambda: client.poll(0.1) or errors, 10, "an error")
    with pytest.raises(KafkaException):
        client.list_topics(timeout=0.2)
    return errors[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sasl.password": "wrong"}, "Authentication failed"),
        ({"sasl.username": "admin"}, "Authentication failed"),
        ({"sasl.mechanism": "PLAIN"}, "mechanism"),
        ({"sasl.mechanism": "SCRAM-SHA-256"}, "mechanism"),
        ({"security.protocol": "PLAINTEXT"}, "are down"),
    ],
)
def test_a_client_without_the_password_is_refused(guarded: Kafka, change: dict[str, str], words: str) -> None:
    assert words in refusal(guarded.bootstrap, {**login(guarded), **change})


def test_the_controller_answers_no_stranger(guarded: Kafka) -> None:
    assert answer_to_a_stranger(guarded.controller_port) == b""
    assert answer_to_a_stranger(guarded.port) == b""


def test_the_password_lies_in_private_files_and_on_no_command_line(guarded: Kafka) -> None:
    assert guarded.folder.stat().st_mode & 0o777 == 0o700
    for name in ("client.properties", "server.properties"):
        assert (guarded.folder / name).stat().st_mode & 0o777 == 0o600
    assert login(guarded)["sasl.password"] not in " ".join(guarded.command())
    assert len(login(guarded)["sasl.password"]) == 64


def test_a_second_start_keeps_the_password(guarded: Kafka) -> None:
    before = login(guarded)
    guarded.part()
    assert login(guarded) == before


@pytest.mark.timeout(240)
def test_a_task_completes_on_a_broker_with_a_password(guarded: Kafka, s3: Any, tmp_path: Path) -> None:
    stack = Stack(guarded.bootstrap, s3.env, tmp_path, tmp_path, settings=guarded.env)
    stack.provision()
    with stack.running():
        runner = stack.python("runner", "-m", "tools.bench.stub_runner")
        parts = (runner, stack.consumer(runner), stack.gateway())
        for part in parts:
            part.wait_until_ready()
        api = Api(parts[-1].url)
        until(lambda: MODEL in api.model_names(), 60, "the model is known")
        task = api.submit(MODEL)
        assert api.reached(task, "completed")["image_url"]
        assert api.image(task).status_code == 200


@pytest.mark.parametrize("value", ["yes", "2", "true"])
def test_a_wrong_value_is_one_sentence(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LOCAL_KAFKA_AUTH", value)
    with pytest.raises(ValueError, match=rf"LOCAL_KAFKA_AUTH must be 0 or 1, not '{value}'"):
        kafka_auth.wanted()
