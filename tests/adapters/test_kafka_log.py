"""What only a real broker, or none at all, can do to the log."""

import asyncio
import logging
import uuid

import pytest
from confluent_kafka import KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from adapters.kafka_client import Connectivity
from adapters.kafka_log import KafkaLog
from adapters.kafka_topics import create_topics
from config.settings import Settings
from tasks.errors import BodyTooLarge, QueueUnavailable
from tasks.events import CancelRequested
from tests.adapters.conftest import LogBench
from tests.adapters.reading import reading
from tests.conftest import KafkaServer, free_ports
from tests.support.kafka import kafka_settings


def cancel() -> CancelRequested:
    """Any event."""
    return CancelRequested(task_id=uuid.uuid4().hex, at=1.0)


def empty(settings: Settings, topic: str, partition: int) -> None:
    """Do what retention does: delete every record."""
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    for future in admin.delete_records([TopicPartition(topic, partition, -1)]).values():
        future.result(10)


async def test_an_append_fails_in_time_if_the_broker_was_never_available() -> None:
    log = KafkaLog(Settings(kafka_bootstrap_servers=f"127.0.0.1:{free_ports(1)[0]}", kafka_timeout=1.0))
    async with asyncio.timeout(5):
        with pytest.raises(QueueUnavailable):
            await log.append_event(cancel(), 0)
    await log.close()


async def test_during_an_outage_calls_fail_at_once_and_one_line_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    log = KafkaLog(Settings(kafka_bootstrap_servers=f"127.0.0.1:{free_ports(1)[0]}", kafka_timeout=60.0))
    async with asyncio.timeout(20):
        while not log._connectivity.unavailable:
            await asyncio.sleep(0.05)
    async with asyncio.timeout(20):
        for _ in range(100):
            with pytest.raises(QueueUnavailable):
                await log.append_event(cancel(), 0)
            with pytest.raises(QueueUnavailable):
                await log.ends()
    assert [record.message.partition(":")[0] for record in caplog.records] == ["Kafka is unavailable"]
    await log.close()


async def test_an_append_whose_caller_is_cancelled_does_not_stop_the_next(kafka: KafkaServer) -> None:
    settings = kafka_settings(kafka.bootstrap)
    create_topics(settings)
    log = KafkaLog(settings)
    await log.append_event(cancel(), 0)
    abandoned = asyncio.ensure_future(log.append_event(cancel(), 0))
    await asyncio.sleep(0)
    abandoned.cancel()
    await asyncio.gather(abandoned, return_exceptions=True)
    async with asyncio.timeout(10):
        await log.append_event(cancel(), 0)
        assert (await log.append_event(cancel(), 0)).offset == 3
    await log.close()


async def test_an_owner_does_not_wait_for_events_that_were_deleted(kafka: KafkaServer) -> None:
    settings = kafka_settings(kafka.bootstrap)
    create_topics(settings)
    log = KafkaLog(settings)
    for partition in (0, 0, 1):
        await log.append_event(cancel(), partition)
    empty(settings, log.events_topic, 0)
    topics = (*settings.lane_names, log.events_topic)
    member = log.join(settings.kafka_group, topics, replayed=log.events_topic)
    async with reading(member.deliveries()) as owner:
        await owner.until(lambda: bool(owner.of_kind("event")))
        assert (owner.events_until[0], owner.events_until[1]) == (0, 1)
        await log.append_event(cancel(), 0)
        await owner.until(lambda: len(owner.of_kind("event")) == 2)
    await log.close()


async def test_a_follower_whose_offsets_are_outside_the_log_reaches_its_end(kafka: KafkaServer) -> None:
    settings = kafka_settings(kafka.bootstrap)
    create_topics(settings)
    log = KafkaLog(settings)
    for partition in (0, 0, 1):
        await log.append_event(cancel(), partition)
    empty(settings, log.events_topic, 0)
    topic = log.events_topic
    async with reading(log.follow({(topic, 0): 1, (topic, 1): 900})) as follower:
        await follower.until(lambda: bool(follower.of_kind("event")))
    starts = {key: at for batch in follower.deliveries for key, at in getattr(batch, "starts", {}).items()}
    assert (starts[topic, 0], starts[topic, 1]) == (2, 0)
    await log.close()


async def test_a_task_larger_than_the_limit_is_refused_before_it_is_sent(kafka: KafkaServer) -> None:
    settings = kafka_settings(kafka.bootstrap).model_copy(update={"record_limit": 100})
    log = KafkaLog(settings)
    with pytest.raises(BodyTooLarge):
        await log.append_task(LogBench(settings, lambda: log, list).task())
    await log.close()


async def test_topics_are_created_once_and_refused_if_their_partitions_differ(kafka: KafkaServer) -> None:
    settings = kafka_settings(kafka.bootstrap)
    create_topics(settings)
    create_topics(settings)
    other = kafka_settings(kafka.bootstrap)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for future in admin.create_topics([NewTopic(other.lane_names[1], 2, 1)]).values():
        future.result(10)
    with pytest.raises(SystemExit, match="same number of partitions"):
        create_topics(other)


def test_an_outage_is_logged_once_however_many_errors_report_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    connectivity, down = Connectivity(), KafkaError(KafkaError._ALL_BROKERS_DOWN)
    connectivity.report_no_answer(connectivity.successes)
    connectivity.report_error(down)
    assert not connectivity.unavailable, "librdkafka also reports this when an idle connection is closed"
    for _ in range(100):
        connectivity.report_error(down)
        connectivity.report_no_answer(connectivity.successes)
    successes_before = connectivity.successes
    connectivity.report_success()
    connectivity.report_error(down)
    connectivity.report_no_answer(successes_before)
    connectivity.report_success()
    lines = [record.message.partition(":")[0] for record in caplog.records]
    assert lines == ["Kafka is unavailable", "Kafka is available again"]
