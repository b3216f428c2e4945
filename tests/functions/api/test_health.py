"""The routes of operators: health, readiness, metrics."""

import pytest

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
