"""How previews travel through the log, on the twin and on the real broker alike."""

import asyncio
import uuid

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from pydantic import ValidationError

from adapters.clock import SystemClock
from adapters.kafka_log import KafkaLog
from adapters.kafka_topics import create_topics
from adapters.memory_log import MemoryBroker, MemoryLog
from adapters.view import View
from config.settings import Settings
from tasks.events import CancelRequested
from tasks.log import Place, Record
from tasks.ports import TaskLog
from tasks.preview import PREVIEW_BYTES, Preview
from tasks.reading import PreviewRead, Unreadable, read_record
from tests.adapters.conftest import LogBench
from tests.adapters.reading import DEADLINE, Reading, reading
from tests.support.kafka import kafka_settings
from tests.support.servers import KafkaServer


def a_preview(image: bytes = b"\xff\xd8\xff") -> Preview:
    """A preview of a task of its own."""
    return Preview(task_id=uuid.uuid4().hex, attempt=1, owner="a", step=3, steps=9, at=1.0, image=image)


async def emit_until_read(log: TaskLog, follower: Reading, preview: Preview) -> None:
    """Emit the preview again and again until the follower, which may still be starting, has read it."""
    async with asyncio.timeout(DEADLINE):
        while preview.task_id not in [record.key for record in follower.of_kind("preview")]:
            log.emit_preview(preview)
            await asyncio.sleep(0.05)


async def test_a_preview_reaches_every_follower_with_its_image(bench: LogBench) -> None:
    log, preview = bench.log(), a_preview(b"\x00\xff" * 4096)
    async with reading(log.follow({})) as first_reader, reading(bench.log().follow({})) as second_reader:
        await emit_until_read(log, first_reader, preview)
        await emit_until_read(log, second_reader, preview)
    record = first_reader.of_kind("preview")[0]
    assert read_record(record, {}, bench.settings.lane_names) == PreviewRead(preview)


async def test_a_follower_reads_no_preview_from_before_it_started(bench: LogBench) -> None:
    log, old, new = bench.log(), a_preview(), a_preview()
    async with reading(log.follow({})) as before:
        await emit_until_read(log, before, old)
    async with reading(log.follow({})) as after:
        await emit_until_read(log, after, new)
    assert {record.key for record in after.of_kind("preview")} == {new.task_id}


async def test_previews_are_outside_the_offsets_a_follower_resumes_from(bench: LogBench) -> None:
    log, preview = bench.log(), a_preview()
    async with reading(log.follow({})) as follower:
        await emit_until_read(log, follower, preview)
    starts = {topic for batch in follower.deliveries for topic, _ in getattr(batch, "starts", {})}
    ends = {topic for topic, _ in await log.ends()}
    assert starts == ends == {*bench.settings.lane_names, log.events_topic}


async def test_without_the_previews_topic_everything_else_works(kafka: KafkaServer) -> None:
    settings = kafka_settings(kafka.bootstrap)
    create_topics(settings)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for future in admin.delete_topics([settings.topic("previews")]).values():
        future.result(10)
    log = KafkaLog(settings)
    async with reading(log.follow({})) as follower:
        async with asyncio.timeout(10):
            for _ in range(20):
                log.emit_preview(a_preview())
                await log.append_event(CancelRequested(task_id="0" * 32, at=1.0), 0)
            await follower.until(lambda: len(follower.of_kind("event")) == 20)
            await log.close()
    assert not log._connectivity.unavailable


def test_the_previews_topic_is_deleted_after_minutes(kafka: KafkaServer) -> None:
    settings = kafka_settings(kafka.bootstrap)
    create_topics(settings)
    resource = ConfigResource(ResourceType.TOPIC, settings.topic("previews"))
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    (future,) = admin.describe_configs([resource]).values()
    config = {name: entry.value for name, entry in future.result(10).items()}
    assert config["cleanup.policy"] == "delete"
    assert int(config["retention.ms"] or 0) == 600_000
    assert int(config["segment.ms"] or 0) < 600_000


def test_a_preview_that_cannot_be_sent_raises_nothing() -> None:
    broker = MemoryBroker(Settings().lane_names, SystemClock())
    broker.down = True
    MemoryLog(broker).emit_preview(a_preview())
    assert not broker.topics["previews"]


def test_a_view_returns_previews_and_stores_nothing_of_them() -> None:
    view, preview = View("", Settings().lane_names), a_preview()
    place = Place("previews", 0, 7)
    record = Record("preview", place, 1.0, preview.task_id, preview.model_dump_json().encode())
    assert view.apply([record]) == [PreviewRead(preview)]
    assert view.get(preview.task_id) is None
    assert view.offsets() == {}
    view.close()


def test_an_image_over_the_limit_is_not_a_preview() -> None:
    with pytest.raises(ValidationError):
        a_preview(b"x" * (PREVIEW_BYTES + 1))
    broken = Record("preview", Place("previews", 0, 0), 1.0, "", b'{"image": "?"}')
    assert isinstance(read_record(broken, {}, ()), Unreadable)
