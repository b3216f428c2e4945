"""Headers in several lines, and answers that no route of ours gives."""

from starlette.exceptions import HTTPException

from tests.support.gateway_world import BODY, is_problem, world


async def test_a_preference_in_a_later_line_counts_too():
    async with world(wait_limit=0.01) as w:
        client, _ = await w.gateway()
        lines = [("Prefer", "respond-async"), ("Prefer", "wait=5")]
        answer = await client.post("/generate_image", json=BODY, headers=lines)
        assert answer.headers["preference-applied"] == "wait=0.01"


async def test_two_idempotency_keys_are_none():
    async with world() as w:
        client, _ = await w.gateway()
        lines = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        told = is_problem(await client.post("/generate_image", json=BODY, headers=lines), 422, "invalid_request")
        assert told["field"] == "Idempotency-Key"
        assert w.tasks() == []


async def test_what_no_route_answers_is_counted_too():
    async with world() as w:
        client, _ = await w.gateway()
        is_problem(await client.get("/nothing"), 404, "not_found")
        is_problem(await client.delete("/models"), 405, "method_not_allowed")
        page = (await client.get("/metrics")).text
        for status in (404, 405):
            assert f'ai_image_gen_http_requests_total{{route="none",status="{status}"}} 1.0' in page


async def test_an_error_of_the_framework_keeps_its_status():
    async with world() as w:
        client, gateway = await w.gateway()

        async def teapot(_: object) -> None:
            raise HTTPException(418, "short and stout")

        gateway.app.add_route("/teapot", teapot)
        answer = await client.get("/teapot")
        assert answer.status_code == 418
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.json()["status"], answer.json()["detail"]) == (418, "short and stout")
