import time
import uuid

from adapters.kafka_log import KafkaLog
from adapters.kafka_topics import create_topics
from config.settings import Settings
from tasks.accept import accept
from tasks.ports import *
from tasks.task import GenerateRequest
from tests.consume.world import card


async def test_smoke(kafka, s3):
    s = Settings(
        kafka_bootstrap_servers=kafka.bootstrap, kafka_topic_prefix="t" + uuid.uuid4().hex[:6], kafka_partitions=4
    )
    s = s.model_copy(update={"kafka_group": s.kafka_topic_prefix + ".g"})
    t = time.time()
    create_topics(s)
    print("topics", time.time() - t)
    log = KafkaLog(s)
    t = time.time()
    await log.append_card(card())
    print("card", time.time() - t)

    def task():
        return accept(
            GenerateRequest(model_name="sd-mini", prompt="x"),
            task_id=uuid.uuid4().hex,
            cards={"sd-mini": card()},
            lanes=s.lane_names,
            created_at=time.time(),
        )

    for _ in range(5):
        t = time.time()
        p = await log.append_task(task())
        print(p, time.time() - t)
    t = time.time()
    print(await log.ends(), time.time() - t)
    t = time.time()
    async for d in log.follow({}):
        print("follow", len(d.records), d.records[0].kind, time.time() - t)
        if d.records[-1].kind == "task":
            break
    t = time.time()
    async for d in log.own():
        print("own", d if not isinstance(d, Records) else len(d.records), time.time() - t)
        if isinstance(d, Records) and d.records[-1].kind == "task":
            break
    await log.close()
