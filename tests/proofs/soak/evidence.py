"""The evidence after a soak: the whole log, the whole store and every answer of the API."""

import asyncio
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from confluent_kafka import Consumer, Message, TopicPartition
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from adapters.kafka_client import Connectivity, client_config
from adapters.s3_store import s3_client
from config.settings import Settings
from tasks.events import Event, Outcome, parse_event
from tasks.runner_api import authorization
from tasks.task import TaskRecord

_ASK_SECONDS = 15.0
_AT_ONCE = 8
_IDLE = ("ai_image_gen_queue_depth", "ai_image_gen_running", "ai_image_gen_unstored", "ai_image_gen_gateway_queued")


@dataclass(frozen=True)
class TopicRecords:
    """All records of the log. Times are those of the broker (Unix seconds)."""

    tasks: Mapping[str, tuple[float, TaskRecord]]
    """When each task was appended and its record, by task id."""
    events: list[tuple[float, Event]]
    """In the order of the log for each task."""
    dead_letters: int
    behind: Mapping[tuple[str, int], int]
    """By lane and partition: how many records lie between the group's committed offset and the end."""


@dataclass(frozen=True)
class ApiAnswer:
    """The API's answers about one task: its status document and the bytes of its pictures, or the problem with them."""

    status: Mapping[str, Any]
    pictures: list[bytes]
    problem: str | None = None


@dataclass(frozen=True)
class Evidence:
    """The evidence of one soak."""

    log: TopicRecords
    outcomes: Mapping[str, Outcome]
    """By task id, from outcome.json."""
    stored: Collection[str]
    """The name of every picture in the store."""
    answers: Mapping[str, ApiAnswer]
    busy: list[str]
    """Metrics that still show work."""


def behind(settings: Settings) -> dict[tuple[str, int], int]:
    """See TopicRecords.behind. Raises KafkaException while the broker is unavailable."""
    consumer = _consumer(settings)
    try:
        lanes = [tp for topic in settings.lane_names for tp in _partitions(consumer, topic)]
        lags = {}
        for tp in consumer.committed(lanes, timeout=_ASK_SECONDS):
            low, high = consumer.get_watermark_offsets(tp, timeout=_ASK_SECONDS)
            lags[tp.topic, tp.partition] = high - max(low, tp.offset)
        return lags
    finally:
        consumer.close()


def read_log(settings: Settings) -> TopicRecords:
    """Every record that is in the log now."""
    tasks: dict[str, tuple[float, TaskRecord]] = {}
    for lane in settings.lane_names:
        for message in _read(settings, lane):
            record = TaskRecord.model_validate_json(message.value() or b"")
            tasks.setdefault(record.task_id, (message.timestamp()[1] / 1000, record))
    events = []
    for message in _read(settings, settings.topic("events")):
        if (event := parse_event(message.value() or b"")) is not None:
            events.append((message.timestamp()[1] / 1000, event))
    dead = sum(1 for _ in _read(settings, settings.topic("dead_letter")))
    return TopicRecords(tasks, events, dead, behind(settings))


def read_store(settings: Settings) -> tuple[dict[str, Outcome], set[str]]:
    """Every outcome.json by task id, and the name of every picture."""
    client = s3_client(settings)
    outcomes, pictures = {}, set()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=settings.s3_bucket, Prefix="tasks/")
    for key in (entry["Key"] for page in pages for entry in page.get("Contents", ())):
        if key.endswith("/outcome.json"):
            body = client.get_object(Bucket=settings.s3_bucket, Key=key)["Body"].read()
            outcomes[key.split("/")[1]] = Outcome.model_validate_json(body)
        else:
            pictures.add(key)
    return outcomes, pictures


async def ask_api(url: str, task_ids: Collection[str]) -> dict[str, ApiAnswer]:
    """The API's answers about each task."""
    turn = asyncio.Semaphore(_AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=_ASK_SECONDS) as client:

        async def ask_about(task_id: str) -> ApiAnswer:
            async with turn:
                answer = await client.get(f"/check_status/{task_id}")
                if answer.status_code != 200:
                    return ApiAnswer({}, [], f"the status of {task_id} is {answer.status_code}: {answer.text[:300]}")
                status = answer.json()
                pictures = [await client.get(image["url"]) for image in status["images"]]
            bad = [f"{got.url} is {got.status_code}: {got.text[:300]}" for got in pictures if got.status_code != 200]
            return ApiAnswer(status, [got.content for got in pictures], "; ".join(bad) or None)

        return dict(zip(task_ids, await asyncio.gather(*map(ask_about, task_ids)), strict=True))


async def busy(metrics: Collection[str], runners: Collection[str], secret: SecretStr | None) -> list[str]:
    """The samples of metrics and runners at these addresses that still show work. `secret`: see RUNNER_SECRET."""
    headers = {"Authorization": authorization(secret.get_secret_value())} if secret else {}
    samples = []
    async with httpx.AsyncClient(timeout=_ASK_SECONDS) as client:
        for url in metrics:
            page = (await client.get(f"{url}/metrics")).text
            for family in text_string_to_metric_families(page):
                if family.name in _IDLE:
                    samples += [f"{url}: {sample}" for sample in family.samples if sample.value]
        for url in runners:
            card = (await client.get(f"{url}/card", headers=headers)).json()
            if card["running_pixels"] or card["waiting"]:
                samples.append(f"{url}: {card['running_pixels']} pixels running, {card['waiting']} waiting")
    return samples


def _consumer(settings: Settings) -> Consumer:
    config = {"group.id": settings.kafka_group, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
    return Consumer(client_config(settings, Connectivity(), **config))


def _partitions(consumer: Consumer, topic: str) -> list[TopicPartition]:
    return [
        TopicPartition(topic, p) for p in consumer.list_topics(topic, timeout=_ASK_SECONDS).topics[topic].partitions
    ]


def _read(settings: Settings, topic: str) -> Iterator[Message]:
    consumer = _consumer(settings)
    try:
        ends = {}
        for tp in _partitions(consumer, topic):
            low, high = consumer.get_watermark_offsets(tp, timeout=_ASK_SECONDS)
            if high > low:
                ends[tp.partition] = high
        consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
        while ends:
            message = consumer.poll(_ASK_SECONDS)
            assert message is not None, f"{topic} does not continue; still to be reached: {ends}"
            assert message.error() is None, message.error()
            yield message
            partition = message.partition()
            if (message.offset() or 0) + 1 >= ends.get(partition, 0):
                ends.pop(partition, None)
    finally:
        consumer.close()
