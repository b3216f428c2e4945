"""What every ImageStore promises, on the twin, on a real S3 server and on moto."""

import asyncio
import contextlib
import logging
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from moto.server import ThreadedMotoServer

from adapters.memory_store import MemoryStore
from adapters.s3_store import S3Store, create_bucket, s3_client
from config.settings import Settings, load_settings
from infra.local.ports import free_ports
from tasks.errors import RangeNotSatisfiable, StoreUnavailable, UnknownImage
from tasks.events import Outcome
from tasks.ports import ImageStore
from tests.adapters.test_view import IDS, outcome


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """A second implementation of S3."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def _settings(monkeypatch: pytest.MonkeyPatch, url: str, access: str = "a", secret: str = "s") -> Settings:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return Settings(aws_endpoint_url_s3=url, s3_bucket=f"b{uuid.uuid4().hex[:12]}", s3_timeout=2.0)


@pytest.fixture(params=["memory", "s3proxy", "moto"])
async def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ImageStore]:
    """Each test runs on all three."""
    if request.param == "memory":
        yield MemoryStore()
        return
    if request.param == "moto":
        settings = _settings(monkeypatch, request.getfixturevalue("moto"))
    else:
        server = request.getfixturevalue("s3")
        settings = _settings(monkeypatch, server.endpoint_url, server.access_key, server.secret_key)
    create_bucket(settings)
    create_bucket(settings)
    made = S3Store(settings)
    await made.check()
    yield made
    made.close()


async def test_an_image_is_read_whole_and_in_ranges(store: ImageStore) -> None:
    await store.put_image("tasks/a/1.png", b"0123456789", "image/png")
    assert await store.get_image("tasks/a/1.png") == b"0123456789"
    assert await store.get_image("tasks/a/1.png", (2, 4)) == b"234"
    assert await store.get_image("tasks/a/1.png", (8, 99)) == b"89"
    assert await store.get_image("tasks/a/1.png", (7, None)) == b"789"
    with pytest.raises(RangeNotSatisfiable):
        await store.get_image("tasks/a/1.png", (10, None))


async def test_an_image_never_stored_or_deleted_is_unknown(store: ImageStore) -> None:
    await store.put_image("k", b"x", "image/png")
    await store.delete_images(["k", "never"])
    for key in ("k", "never"):
        with pytest.raises(UnknownImage):
            await store.get_image(key)
    assert await store.get_outcome(IDS[0]) is None


async def test_an_empty_store_is_reachable(store: ImageStore) -> None:
    await store.check_reachable()
    with pytest.raises(UnknownImage):
        await store.get_image("system/probe")


async def test_a_store_without_its_bucket_is_not_reachable(monkeypatch: pytest.MonkeyPatch, moto: str) -> None:
    without_bucket = S3Store(_settings(monkeypatch, moto))
    with pytest.raises(StoreUnavailable):
        await without_bucket.check_reachable()
    without_bucket.close()


async def test_the_first_outcome_is_kept_and_every_later_writer_gets_it(store: ImageStore) -> None:
    first, second = outcome(IDS[0]), outcome(IDS[0], "failed")
    assert await store.put_outcome(first) == first
    assert await store.put_outcome(second) == first
    assert await store.get_outcome(IDS[0]) == first


async def test_of_many_outcomes_written_at_once_one_is_kept_and_all_writers_get_it(store: ImageStore) -> None:
    racing = [outcome(IDS[0], status) for status in ("completed", "failed", "canceled", "expired")] * 2
    answers: list[Outcome] = await asyncio.gather(*(store.put_outcome(each) for each in racing))
    assert len({answer.status for answer in answers}) == 1
    assert await store.get_outcome(IDS[0]) == answers[0]


async def test_a_store_that_cannot_be_reached_fails_within_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store(_settings(monkeypatch, f"http://127.0.0.1:{free_ports(1)[0]}"))
    async with asyncio.timeout(5):
        with pytest.raises(StoreUnavailable):
            await store.put_outcome(outcome(IDS[0]))
    store.close()


def _conflict(**_: object) -> None:
    answer = {"Error": {"Code": "OperationAborted"}, "ResponseMetadata": {"HTTPStatusCode": 409}}
    raise ClientError(answer, "PutObject")  # type: ignore[arg-type]


async def test_an_image_that_conflicts_with_another_write_may_be_retried(
    monkeypatch: pytest.MonkeyPatch, moto: str
) -> None:
    store = S3Store(_settings(monkeypatch, moto))
    monkeypatch.setattr(store._client, "put_object", _conflict)
    with pytest.raises(StoreUnavailable):
        await store.put_image("k", b"x", "image/png")
    store.close()


async def test_a_conditional_write_that_conflicts_is_retried_with_pauses_a_few_times(
    monkeypatch: pytest.MonkeyPatch, moto: str
) -> None:
    store = S3Store(_settings(monkeypatch, moto))
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(store._client, "put_object", _conflict)
    monkeypatch.setattr("adapters.s3_store.asyncio.sleep", pause)
    with pytest.raises(StoreUnavailable):
        await store.put_once("k", b"x")
    assert pauses
    assert all(pauses)
    store.close()


async def test_during_an_outage_one_call_probes_and_the_others_fail_at_once(
    monkeypatch: pytest.MonkeyPatch, moto: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = _settings(monkeypatch, moto)
    create_bucket(settings)
    store = S3Store(settings)
    put, requests, answers, unavailable = store._client.put_object, 0, threading.Event(), True

    def put_object(**fields: Any) -> Any:
        nonlocal requests
        requests += 1
        if unavailable:
            answers.wait(30)
            raise EndpointConnectionError(endpoint_url="x")
        return put(**fields)

    async def puts(count: int) -> list[BaseException | None]:
        calls = (store.put_image(f"k{n}", b"x", "image/png") for n in range(count))
        return await asyncio.gather(*calls, return_exceptions=True)

    monkeypatch.setattr(store._client, "put_object", put_object)
    answers.set()
    assert isinstance((await puts(1))[0], StoreUnavailable)
    answers.clear()
    probe = asyncio.ensure_future(puts(1))
    async with asyncio.timeout(10):
        while requests < 2:
            await asyncio.sleep(0.01)
        assert all(isinstance(error, StoreUnavailable) for error in await puts(100))
    assert requests == 2
    unavailable = False
    answers.set()
    await probe
    assert [*await puts(1), *await puts(30)] == [None] * 31
    assert [record.message.partition(":")[0] for record in caplog.records if record.name == "adapters.s3_store"] == [
        "S3 is unavailable",
        "S3 is available again",
    ]
    store.close()


async def test_a_small_request_to_a_store_that_hangs_fails_within_one_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = _settings(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        store = S3Store(settings)
        async with asyncio.timeout(settings.s3_timeout + 1.5):
            with pytest.raises(StoreUnavailable):
                await store.get_outcome(IDS[0])
        store.close()


_BROKEN_ANSWERS = {
    "nothing": b"",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "half a status line": b"HTTP/1.",
    "a body cut short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
    "a piece cut short": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf",
    "no line after a piece": b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf",
    "no length of a piece": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhalf",
    "an error that is no XML": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 6\r\n\r\n<Error",
    "a page of a proxy": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 9\r\n\r\n<p>Bad<p>",
}


@pytest.fixture
def breaking() -> Iterator[Callable[[bytes], str]]:
    """Starts a server that answers every request with these bytes and closes the connection. Returns its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(answer: bytes) -> None:
            with contextlib.suppress(OSError):  # at the end of the test the server is closed
                while True:
                    connection, _ = server.accept()
                    with connection, contextlib.suppress(ConnectionError):
                        connection.recv(65536)
                        connection.sendall(answer)

        def start(answer: bytes) -> str:
            threading.Thread(target=serve, args=(answer,), daemon=True).start()
            return f"http://127.0.0.1:{server.getsockname()[1]}"

        yield start
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("call", ["get_image", "get_outcome", "put_image", "put_once"])
@pytest.mark.parametrize("answer", _BROKEN_ANSWERS.values(), ids=_BROKEN_ANSWERS)
async def test_a_store_that_answers_in_pieces_or_nonsense_is_unavailable(
    answer: bytes, call: str, breaking: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Store(_settings(monkeypatch, breaking(answer)))
    arguments: dict[str, tuple[Any, ...]] = {
        "get_image": ("tasks/a/0.png",),
        "get_outcome": (IDS[0],),
        "put_image": ("tasks/a/0.png", b"image", "image/png"),
        "put_once": ("system/a", b"secret"),
    }
    with pytest.raises(StoreUnavailable):
        await getattr(store, call)(*arguments[call])
    store.close()


async def test_a_store_that_ignores_if_none_match_is_refused(monkeypatch: pytest.MonkeyPatch, moto: str) -> None:
    settings = _settings(monkeypatch, moto)
    create_bucket(settings)
    store = S3Store(settings)
    put = store._client.put_object
    monkeypatch.setattr(
        store._client,
        "put_object",
        lambda **fields: put(**{k: v for k, v in fields.items() if k != "IfNoneMatch"}),
    )
    with pytest.raises(SystemExit, match="If-None-Match"):
        await store.check()
    store.close()


def test_the_store_uses_the_credentials_of_the_settings_or_those_that_aws_finds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials that an earlier test has found
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of the environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not in a file")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    (tmp_path / "secret").write_text("in a file\n")
    in_file = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY_FILE": str(tmp_path / "secret")}
    for environ, keys in (
        (in_file, ("id", "in a file", None)),
        (in_file | {"AWS_SESSION_TOKEN": "token"}, ("id", "in a file", "token")),
        ({}, ("of the environment", "not in a file", None)),
        ({"AWS_ACCESS_KEY_ID": "id"}, ("of the environment", "not in a file", None)),
    ):
        used = s3_client(load_settings(environ))._request_signer._credentials
        assert (used.access_key, used.secret_key, used.token) == keys


ODD_KEYS = {
    "empty": "",
    "dots": "tasks/a/../../system/id_secret",
    "dots alone": "..",
    "dots at the end": "tasks/a/..",
    "a dot": "tasks/./a",
    "absolute": "/tasks/a/1.png",
    "two slashes": "tasks//a",
    "a slash at the end": "tasks/a/",
    "percent-encoded": "tasks/a/%2e%2e/x",
    "a NUL": "tasks/a/\x00",
    "a line break": "tasks/a/1.png\n",
    "unicode": "tasks/a/\u202e.png",
    "a lone surrogate": "tasks/a/\ud800",
    "longer than S3 takes": "tasks/" + "a" * 5000,
    "as long as S3 takes": "tasks/" + "a" * 1018,
    "a backslash": "tasks\\a",
    "a question mark": "tasks/a?versionId=1",
}


@pytest.mark.parametrize("what", ODD_KEYS)
async def test_an_object_of_an_odd_name_is_unknown_and_is_no_outage(
    store: ImageStore, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UnknownImage):
        await store.get_image(ODD_KEYS[what])
    await asyncio.gather(*(store.put_image(f"k{n}", b"x", "image/png") for n in range(20)))
    assert "unavailable" not in caplog.text


REFUSALS = [
    ("AccessDenied", 403), ("InvalidArgument", 400), ("InvalidObjectState", 403), ("InternalError", 500),
    ("403", 403), ("400", 400), ("500", 500), ("KeyTooLongError", 400), ("InvalidURI", 400), ("", 418),
]  # fmt: skip


@pytest.mark.parametrize(("code", "status"), REFUSALS)
async def test_an_error_about_one_object_is_no_outage_of_the_store(
    monkeypatch: pytest.MonkeyPatch, moto: str, caplog: pytest.LogCaptureFixture, code: str, status: int
) -> None:
    settings = _settings(monkeypatch, moto)
    create_bucket(settings)
    store = S3Store(settings)
    get, begun, answer = store._client.get_object, threading.Event(), threading.Event()

    def get_object(**fields: Any) -> Any:
        if fields["Key"] != "tasks/bad/1.png":
            return get(**fields)
        begun.set()
        answer.wait(30)
        error = {
            "Error": {"Code": code, "Message": "at http://u:p@s3/b"},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }
        raise ClientError(error, "GetObject")  # type: ignore[arg-type]

    monkeypatch.setattr(store._client, "get_object", get_object)
    await store.put_image("tasks/good/1.png", b"x", "image/png")
    for _ in range(3):
        begun.clear()
        answer.clear()
        refused = asyncio.ensure_future(store.get_image("tasks/bad/1.png"))
        await asyncio.to_thread(begun.wait, 30)
        assert await store.get_image("tasks/good/1.png") == b"x"
        answer.set()
        with pytest.raises((StoreUnavailable, UnknownImage)) as error:
            await refused
        assert error.value.detail == type(error.value).title()
        gets = [store.get_image("tasks/good/1.png") for _ in range(20)]
        assert await asyncio.gather(*gets) == [b"x"] * 20
    assert "S3 is unavailable" not in caplog.text
    store.close()


async def test_a_store_that_is_away_is_described_in_the_log_and_not_to_clients(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = _settings(monkeypatch, f"http://127.0.0.1:{free_ports(1)[0]}")
    store = S3Store(settings)
    for call in (store.get_image("tasks/a/1.png"), store.put_outcome(outcome(IDS[0])), store.check_reachable()):
        with pytest.raises(StoreUnavailable) as error:
            await call
        assert error.value.detail == StoreUnavailable.title()
    assert settings.aws_endpoint_url_s3
    assert settings.aws_endpoint_url_s3 in caplog.text
    assert settings.s3_bucket in caplog.text
    store.close()
