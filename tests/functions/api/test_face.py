"""Requests that no route takes, and errors that no route raised."""

from starlette.exceptions import HTTPException

from tests.support.gateway_world import is_problem, world

NOBODY = "0" * 32


async def test_an_unknown_path_or_method_is_a_problem():
    async with world() as w:
        client, _ = await w.gateway()
        is_problem(await client.get("/nowhere"), 404, "not_found")
        answer = await client.get("/generate_image")
        is_problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "POST"
        is_problem(await client.delete(f"/check_status/{NOBODY}"), 405, "method_not_allowed")


async def test_requests_that_no_route_takes_are_counted_too():
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
