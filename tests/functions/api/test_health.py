"""The routes of operators: health, readiness, metrics."""

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
