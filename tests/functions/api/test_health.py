"""The routes of operators: health, readiness, metrics."""

from typing import Any

import pytest

from tasks.errors import StoreUnavailable
from tests.support.gateway_world import BODY, is_problem, world


async def test_readiness_names_each_missing_thing():
    async with world() as w:
        client, _ = await w.gateway()
        assert (await client.get("/readyz")).status_code == 200
    async with world() as w:
        w.broker.down = w.store.down = True
        client, _ = await w.gateway()
        answer = await client.get("/readyz")
        is_problem(answer, 503, "starting_up")
        assert {"queue", "store", "models"} <= answer.json()["missing"].keys()
        assert (await client.get("/livez")).status_code == 200


ADDRESS = "http://user:secret@10.0.0.1:9000/bucket/system/probe"


async def test_readiness_says_what_is_missing_and_the_log_says_why(caplog: pytest.LogCaptureFixture):
    async def fail() -> Any:
        raise StoreUnavailable(ADDRESS) from OSError(ADDRESS)

    async with world() as w:
        client, _ = await w.gateway()
        w.store.check_reachable = fail  # type: ignore[method-assign]
        answers = [await client.get(path) for path in ("/readyz", "/readyz", "/metrics")]
        is_problem(answers[0], 503, "starting_up")
        sentence = "The image store (S3) cannot be reached now."
        assert answers[0].json()["missing"] == {"store": sentence}
        assert answers[0].json()["detail"] == sentence
        assert not any("secret" in answer.text for answer in answers)
        assert 'ai_image_gen_not_ready{missing="store"} 1.0' in answers[2].text
        assert 'ai_image_gen_not_ready{missing="queue"} 0.0' in answers[2].text
    (record,) = [record for record in caplog.records if record.name == "functions.api.health"]
    assert ADDRESS in str(vars(record))


async def test_the_metrics_count_requests_and_queue():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        text = (await client.get("/metrics")).text
        assert 'ai_image_gen_http_requests_total{route="/generate_image",status="202"} 1.0' in text
        assert 'ai_image_gen_gateway_queued{model="sd-mini"} 1.0' in text


async def test_readiness_asks_log_and_store_at_most_once_a_second_and_reads_no_secret():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY, headers={"Idempotency-Key": "k"})
        reads: list[str] = []
        check, get = w.store.check_reachable, w.store.get_image

        async def counted_check() -> None:
            reads.append("check")
            await check()

        async def counted_get(key: str, byte_range: object = None) -> bytes:
            reads.append(key)
            return await get(key)

        w.store.check_reachable, w.store.get_image = counted_check, counted_get  # type: ignore[method-assign]
        for _ in range(20):
            assert (await client.get("/readyz")).status_code == 200
        assert reads == ["check"]


@pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz", "/metrics"])
async def test_the_routes_of_operators_are_not_counted_as_requests(path: str):
    async with world() as w:
        client, _ = await w.gateway()
        assert (await client.get(path)).status_code == (await client.head(path)).status_code == 200
        assert f'route="{path}"' not in (await client.get("/metrics")).text
