"""What every RunnerClient promises, on the twin and over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing

import pytest
from aiohttp import web
from pydantic import SecretStr

from adapters import runner_client
from adapters.clock import SystemClock
from adapters.memory_runner import MemoryRunner
from adapters.runner_client import HttpRunner, runner_session
from infra.local.ports import free_ports
from tasks.errors import (
    CallerRefused,
    InvalidRequest,
    OutOfMemory,
    RunnerBusy,
    RunnerLoading,
    RunnerLost,
    RunnerUnavailable,
    TaskError,
    UnknownLora,
)
from tasks.ports import RunnerClient
from tasks.runner_api import FRAMES, Accepted, Decoder, End, Error, Frame, Input, RunRequest, Step, encode
from tests.support.world import card

Serve = Callable[[Callable[[web.Request], object]], object]
ACCEPTED = encode(Accepted(waiting=0))


BAD_STEP = b"\0\0\0\x1e\0\0\0\0" + b'{"kind":"step","step":"first"} '
UNKNOWN = b"\0\0\0\x12\0\0\0\0" + b'{"kind":"thought"}'


def request(task_id: str = "1", **more: object) -> RunRequest:
    """One attempt of two steps, which fills half of the runner."""
    fields = {
        "model_name": "sd-mini",
        "prompt": "x",
        "width": 64,
        "height": 64,
        "steps": 2,
        "guidance_scale": 1.0,
    }
    return RunRequest.model_validate({"task_id": task_id, "seed": 1, "scheduler": "euler"} | fields | more)


async def frames(runner: RunnerClient, run_request: RunRequest) -> list[Frame]:
    """All frames of one attempt."""
    async with aclosing(runner.run(run_request)) as run:
        return [frame async for frame in run]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., object]]:
    """Starts a server with this `POST /run`; its runner."""
    async with AsyncExitStack() as stack:

        async def start(
            run: Callable[[web.Request], object],
            pages: Mapping[str, Callable[[web.Request], object]] | None = None,
            secret: SecretStr | None = None,
        ) -> HttpRunner:
            app = web.Application()
            app.router.add_post("/run", run)  # type: ignore[arg-type]
            for path, page in (pages or {}).items():
                app.router.add_get(path, page)  # type: ignore[arg-type]
            server = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
            await server.setup()
            stack.push_async_callback(server.cleanup)
            port = free_ports(1)[0]
            await web.TCPSite(server, "127.0.0.1", port).start()
            session = await stack.enter_async_context(runner_session(secret))
            return HttpRunner(f"http://127.0.0.1:{port}", session)

        yield start


def over_http(twin: MemoryRunner) -> Callable[[web.Request], object]:
    """The twin behind the wire contract, as a runner service speaks it."""

    async def run(http_request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        async with aclosing(twin.run(RunRequest.model_validate_json(await http_request.read()))) as stream:
            try:
                async for frame in stream:
                    if not answer.prepared:
                        await answer.prepare(http_request)
                    await answer.write(encode(frame))
            except (RunnerBusy, RunnerLoading, InvalidRequest) as error:
                return web.json_response(error.problem(), status=error.status)
            except TaskError as error:
                await answer.write(encode(Error(code=error.code(), message=error.detail)))
        return answer

    return run


@pytest.fixture(params=["memory", "http"])
async def pair(request: pytest.FixtureRequest, serve: Callable[..., object]) -> tuple[RunnerClient, MemoryRunner]:
    """The runner as the consumer sees it, and the twin that does the work."""
    twin = MemoryRunner(card(), SystemClock(), step_seconds=0.01)
    if request.param == "memory":
        return twin, twin

    async def models(_: web.Request) -> web.Response:
        return web.Response(body=(await twin.describe()).model_dump_json())

    return await serve(over_http(twin), {"/models": models}), twin  # type: ignore[misc]


async def test_an_attempt_streams_its_steps_its_pictures_and_an_end(
    pair: tuple[RunnerClient, MemoryRunner],
) -> None:
    runner, _ = pair
    seen = await frames(runner, request(num_images=2))
    assert [frame.kind for frame in seen] == [
        "accepted",
        "started",
        "step",
        "step",
        "image",
        "image",
        "end",
    ]
    assert all(frame.payload for frame in seen if frame.kind == "image")


async def test_a_runner_describes_its_models_and_itself(pair: tuple[RunnerClient, MemoryRunner]) -> None:
    assert (await pair[0].describe()).served() == {"sd-mini": card()}


async def test_a_runner_that_still_loads_describes_a_model_that_takes_no_tasks(
    pair: tuple[RunnerClient, MemoryRunner],
) -> None:
    runner, twin = pair
    twin.loading = True
    description = await runner.describe()
    assert description.capabilities["sd-mini"].steps == card().steps
    assert description.status.models["sd-mini"].loaded is False
    assert description.served() == {}


@pytest.mark.parametrize("status", [200, 503])
async def test_an_older_runner_is_described_by_its_card(serve: Callable[..., object], status: int) -> None:
    async def older(_: web.Request) -> web.Response:
        return web.Response(status=status, body=card().model_dump_json())

    runner = await serve(_silent, {"/card": older})  # type: ignore[misc]
    if status == 503:
        with pytest.raises(RunnerLoading):
            await runner.describe()
    else:
        assert (await runner.describe()).served() == {"sd-mini": card()}


async def test_inputs_travel_as_frames_before_the_answer(serve: Callable[..., object]) -> None:
    received: list[Frame] = []

    async def run(http_request: web.Request) -> web.StreamResponse:
        assert http_request.content_type == FRAMES
        received.extend(Decoder().feed(await http_request.read()))
        return await _stream(http_request, ACCEPTED + encode(End()))

    runner = await serve(run)  # type: ignore[misc]
    run_request = request(inputs=["image", "mask"])
    files = [Input(name=name, content_type="image/png", payload=name.encode() * 9) for name in run_request.inputs]
    async with aclosing(runner.run(run_request, files)) as stream:
        assert [frame.kind async for frame in stream] == ["accepted", "end"]
    first, *rest = received
    assert RunRequest.model_validate_json(first.payload) == run_request
    assert rest == files


async def test_a_runner_that_takes_no_inputs_refuses_them(pair: tuple[RunnerClient, MemoryRunner]) -> None:
    with pytest.raises(InvalidRequest, match="takes no inputs"):
        await frames(pair[0], request(inputs=["image"]))


async def test_a_full_runner_takes_nothing_more(
    pair: tuple[RunnerClient, MemoryRunner],
) -> None:
    runner, twin = pair
    twin.running = {str(n): request(str(n)) for n in range(4)}
    with pytest.raises(RunnerBusy):
        await frames(runner, request("5"))


async def test_a_runner_that_still_loads_takes_nothing(
    pair: tuple[RunnerClient, MemoryRunner],
) -> None:
    runner, twin = pair
    twin.loading = True
    with pytest.raises(RunnerLoading):
        await frames(runner, request())


async def test_an_error_frame_is_raised_as_its_own_error(
    pair: tuple[RunnerClient, MemoryRunner],
) -> None:
    runner, twin = pair
    twin.fail_next = [OutOfMemory("no room")]
    with pytest.raises(OutOfMemory, match="no room"):
        await frames(runner, request())


async def test_closing_the_stream_cancels_the_attempt(
    pair: tuple[RunnerClient, MemoryRunner],
) -> None:
    runner, twin = pair
    async with aclosing(runner.run(request(steps=10_000))) as run:
        async for frame in run:
            if frame.kind == "step":
                break
    async with asyncio.timeout(5):
        while twin.running:
            await asyncio.sleep(0.005)
    assert twin.dropped == ["1"]


async def _silent(_: web.Request) -> web.Response:
    raise AssertionError


async def _stream(http_request: web.Request, data: bytes, then: float = 0.0) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(http_request)
    await answer.write(data)
    await asyncio.sleep(then)
    return answer


@pytest.mark.parametrize(
    "data", [ACCEPTED, ACCEPTED + b"\xff" * 8, ACCEPTED + encode(Step(step=1, steps=2))[:-1], ACCEPTED + BAD_STEP]
)
async def test_a_stream_without_its_end_means_the_runner_is_lost(serve: Callable[..., object], data: bytes) -> None:
    async def cut_off(http_request: web.Request) -> web.StreamResponse:
        return await _stream(http_request, data)

    runner = await serve(cut_off)  # type: ignore[misc]
    with pytest.raises(RunnerLost):
        await frames(runner, request())


@pytest.mark.parametrize("answered", [False, True])
async def test_a_runner_that_does_not_accept_in_time_is_lost(
    serve: Callable[..., object], monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    monkeypatch.setattr(runner_client, "_ACCEPT_SECONDS", 0.2)

    async def silent(http_request: web.Request) -> web.StreamResponse:
        if answered:
            return await _stream(http_request, b"", then=60)
        await asyncio.sleep(60)
        raise AssertionError

    runner = await serve(silent)  # type: ignore[misc]
    async with asyncio.timeout(5):
        with pytest.raises(RunnerLost):
            await frames(runner, request())


async def test_an_accepted_task_may_take_longer_than_accepting_it(
    serve: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_client, "_ACCEPT_SECONDS", 0.2)

    async def slow(http_request: web.Request) -> web.StreamResponse:
        answer = await _stream(http_request, ACCEPTED, then=0.5)
        await answer.write(UNKNOWN + encode(End()))
        return answer

    assert [frame.kind for frame in await frames(await serve(slow), request())] == [
        "accepted",
        "end",
    ]  # type: ignore[misc]


async def test_a_refusal_of_the_runner_keeps_its_code(
    serve: Callable[..., object],
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response(UnknownLora("no such").problem(), status=422)

    with pytest.raises(UnknownLora, match="no such"):
        await frames(await serve(refuse), request())  # type: ignore[misc]


async def test_every_request_to_a_runner_carries_the_shared_secret(serve: Callable[..., object]) -> None:
    sent: list[str | None] = []

    async def run(http_request: web.Request) -> web.StreamResponse:
        sent.append(http_request.headers.get("Authorization"))
        return await _stream(http_request, ACCEPTED + encode(End()))

    async def models(http_request: web.Request) -> web.Response:
        sent.append(http_request.headers.get("Authorization"))
        return web.Response(status=503)

    for secret in (SecretStr("the-secret"), None):
        runner: HttpRunner = await serve(run, {"/models": models}, secret)  # type: ignore[misc]
        await frames(runner, request())
        with pytest.raises(RunnerLoading):
            await runner.describe()
    assert sent == ["Bearer the-secret", "Bearer the-secret", None, None]


@pytest.mark.parametrize("body", [json.dumps(CallerRefused("the secret differs").problem()), "<html>", "[]", '"no"'])
async def test_a_runner_that_refuses_this_consumer_costs_a_task_nothing(
    serve: Callable[..., object], body: str
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=403, body=body)

    runner: HttpRunner = await serve(refuse, {"/models": refuse})  # type: ignore[misc]
    reason = "the secret differs" if "differs" in body else "of its consumers alone"
    with pytest.raises(RunnerUnavailable, match=f"{runner.url} refuses this consumer: .*{reason}"):
        await frames(runner, request())
    with pytest.raises(RunnerUnavailable, match=f"{runner.url} refuses this consumer: .*{reason}"):
        await runner.describe()


async def test_neither_a_task_nor_the_secret_follows_a_redirect(serve: Callable[..., object]) -> None:
    followed: list[str] = []

    async def elsewhere(http_request: web.Request) -> web.Response:
        followed.append(http_request.path)
        return web.Response()

    other: HttpRunner = await serve(elsewhere, {"/models": elsewhere})  # type: ignore[misc]

    async def redirect(http_request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"{other.url}{http_request.path}"})

    runner: HttpRunner = await serve(redirect, {"/models": redirect}, SecretStr("the-secret"))  # type: ignore[misc]
    with pytest.raises(RunnerLost, match="answered 307"):
        await frames(runner, request())
    with pytest.raises(RunnerLoading):
        await runner.describe()
    assert followed == []


async def test_a_runner_that_cannot_be_reached_is_lost() -> None:
    async with runner_session() as session:
        runner = HttpRunner(f"http://127.0.0.1:{free_ports(1)[0]}", session)
        with pytest.raises(RunnerLost):
            await frames(runner, request())
        with pytest.raises(RunnerLost):
            await runner.describe()
