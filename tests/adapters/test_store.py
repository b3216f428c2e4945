"""What every ImageStore promises: on the twin, on the real server, and on moto."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from moto.server import ThreadedMotoServer

from adapters.memory_store import MemoryStore
from adapters.s3_store import S3Store, create_bucket
from config.settings import Settings
from tasks.errors import RangeNotSatisfiable, StoreUnavailable, UnknownImage
from tasks.events import Outcome
from tasks.ports import ImageStore
from tests.adapters.test_view import IDS, outcome
from tests.conftest import free_ports


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
    """Each case runs on all three."""
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


async def test_a_picture_comes_back_whole_and_in_parts(store: ImageStore) -> None:
    await store.put_image("tasks/a/1.png", b"0123456789", "image/png")
    assert await store.get_image("tasks/a/1.png") == b"0123456789"
    assert await store.get_image("tasks/a/1.png", (2, 4)) == b"234"
    assert await store.get_image("tasks/a/1.png", (8, 99)) == b"89"
    assert await store.get_image("tasks/a/1.png", (7, None)) == b"789"
    with pytest.raises(RangeNotSatisfiable):
        await store.get_image("tasks/a/1.png", (10, None))


async def test_what_was_never_stored_or_was_deleted_is_unknown(
    store: ImageStore,
) -> None:
    await store.put_image("k", b"x", "image/png")
    await store.delete_images(["k", "never"])
    for key in ("k", "never"):
        with pytest.raises(UnknownImage):
            await store.get_image(key)
    assert await store.get_outcome(IDS[0]) is None


async def test_the_first_outcome_stands_and_whoever_comes_later_is_told_it(
    store: ImageStore,
) -> None:
    first, second = outcome(IDS[0]), outcome(IDS[0], "failed")
    assert await store.put_outcome(first) == first
    assert await store.put_outcome(second) == first
    assert await store.get_outcome(IDS[0]) == first


async def test_of_many_outcomes_at_once_one_stands_for_all(store: ImageStore) -> None:
    racing = [outcome(IDS[0], status) for status in ("completed", "failed", "canceled", "expired")] * 2
    answers: list[Outcome] = await asyncio.gather(*(store.put_outcome(one) for one in racing))
    assert len({one.status for one in answers}) == 1
    assert await store.get_outcome(IDS[0]) == answers[0]


async def test_a_store_that_is_away_says_so_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = S3Store(_settings(monkeypatch, f"http://127.0.0.1:{free_ports(1)[0]}"))
    async with asyncio.timeout(5):
        with pytest.raises(StoreUnavailable):
            await store.put_outcome(outcome(IDS[0]))
    store.close()


async def test_a_store_that_overwrites_what_must_be_written_once_is_refused(
    monkeypatch: pytest.MonkeyPatch, moto: str
) -> None:
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
