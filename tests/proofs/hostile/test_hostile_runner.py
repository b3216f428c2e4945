"""Hostile requests to a runner, and a consumer whose runner answers with random bytes."""

import asyncio
import itertools
import json
import struct
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from config.settings import Settings
from runners.model_folder import inspect
from runners.server import build_app
from tasks.errors import ERRORS, RunnerLost
from tasks.runner_api import BrokenFrame, Decoder, Frame, Input, RunRequest, encode
from tests.proofs.hostile import hostile
from tests.support.world import world

GOOD = {
    "task_id": f'"{hostile.GOOD_ID}"', "model_name": '"sd-mini"', "prompt": '"a red circle"', "width": "64", "height": "64",
    "steps": "1", "guidance_scale": "1.0", "seed": "1", "scheduler": '"ddim"',
}  # fmt: skip
FIELDS = (
    *GOOD,
    "negative_prompt",
    "attempt",
    "num_images",
    "format",
    "loras",
    "metadata",
    "preview",
    "max_runtime",
    "inputs",
    "requires",
    "alias",
    "drawn_at",
    "x",
)
seeded = hypothesis.settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))


class ServedRunner:
    """A loaded runner of sd-mini in this process, with its own event loop for requests to it."""

    def __init__(self, cache: Path, runner: asyncio.Runner) -> None:
        settings = Settings(model_name="sd-mini", model_cache_dir=cache, runner_device="cpu", runner_grace=1)  # type: ignore[call-arg]
        self.app = build_app(inspect(cache, "sd-mini"), settings)
        self.runner = runner
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://127.0.0.1", timeout=60
        )
        self.lifespan = self.app.router.lifespan_context(self.app)
        runner.run(self.lifespan.__aenter__())
        runner.run(self._ready())

    async def _ready(self) -> None:
        async with asyncio.timeout(90):
            while (await self.client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.05)

    def request(self, method: str, path: str, body: bytes = b"", headers: Any = ()) -> httpx.Response:
        if not any(name.lower() == "content-type" for name, _ in headers):
            headers = [*headers, ("Content-Type", "application/json")]
        lines = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        request = self.client.request(method, path, content=body, headers=lines)
        return self.runner.run(asyncio.wait_for(request, 90))

    def close(self) -> None:
        self.runner.run(self.lifespan.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def served_runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRunner]:
    from tools.miniatures.build import build_minis

    cache = tmp_path_factory.mktemp("model_cache")
    build_minis(cache)
    with asyncio.Runner() as runner:
        served_runner = ServedRunner(cache, runner)
        yield served_runner
        served_runner.close()


def kinds(answer: httpx.Response) -> list[str]:
    decoder = Decoder()
    return [frame.kind for frame in decoder.feed(answer.content)]


def test_a_runner_refuses_or_ends_any_request_and_serves_the_next(served_runner: ServedRunner) -> None:
    @hypothesis.seed(7)
    @seeded
    @given(body=hostile.bodies(FIELDS, **GOOD), headers=hostile.headers)
    def sent(body: bytes, headers: list[tuple[str, str]]) -> None:
        answer = served_runner.request("POST", "/run", body, headers)
        if answer.status_code == 200:
            assert kinds(answer)[-1] == "end"
        else:
            assert answer.status_code < 500
            assert answer.json()["code"] in ERRORS

    sent()
    good = "{" + ",".join(f'"{name}":{value}' for name, value in GOOD.items()) + "}"
    assert kinds(served_runner.request("POST", "/run", good.encode())) == [
        "accepted",
        "started",
        "step",
        "image",
        "end",
    ]


def test_a_body_far_too_large_is_not_read_to_its_end(served_runner: ServedRunner) -> None:
    answer = served_runner.request("POST", "/run", b" " * (5 * 1024**2))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("path", ["/card/../../etc/passwd", "/run/..%2f", "/nothing", "/%00"])
def test_a_runner_answers_no_path_and_method_beside_its_own(served_runner: ServedRunner, path: str) -> None:
    assert served_runner.request("GET", path).status_code == 404
    assert served_runner.request("DELETE", "/run").status_code == 405


PROMPTS = [text for text in hostile.STRINGS if 0 < len(text) <= 2000]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_prompt_of_any_unicode_plane_is_drawn_and_stored_in_the_image(served_runner: ServedRunner, kind: str) -> None:
    from io import BytesIO

    from PIL import Image

    for prompt in (*PROMPTS, "ab\U0010ffff\u0000é" * 400):
        fields = {**GOOD, "prompt": json.dumps(prompt), "format": json.dumps(kind)}
        answer = served_runner.request(
            "POST", "/run", ("{" + ",".join(f'"{n}":{v}' for n, v in fields.items()) + "}").encode()
        )
        frames = list(Decoder().feed(answer.content))
        (data,) = [frame.payload for frame in frames if frame.kind == "image"]
        image = Image.open(BytesIO(data))
        image.load()
        if kind == "png":
            assert json.loads(image.info["ai-image-gen"])["request"]["prompt"] == prompt


def frames() -> st.SearchStrategy[bytes]:
    """Bytes that resemble a runner's answer."""
    header = st.dictionaries(
        st.sampled_from(
            ("kind", "step", "steps", "index", "content_type", "width", "height", "seed", "code", "message")
        ),
        st.integers()
        | st.text(max_size=20)
        | st.none()
        | st.booleans()
        | st.floats()
        | st.lists(st.integers(), max_size=2),
    )
    kinds = st.sampled_from(("accepted", "started", "step", "preview", "image", "error", "end", "other", ""))
    sound = st.builds(_frame, kinds, header, st.binary(max_size=40))
    raw = st.builds(
        lambda head, size, rest: struct.pack(">II", head, size) + rest,
        *(st.integers(0, 2**32 - 1) | st.integers(0, 70_000),) * 2,
        st.binary(max_size=60),
    )
    deep = st.just(struct.pack(">II", 60_000, 0) + b"[" * 60_000)
    return st.lists(st.one_of(sound, sound, sound, raw, deep, st.binary(max_size=20)), max_size=8).map(b"".join)


def _frame(kind: str, header: dict[str, Any], body: bytes) -> bytes:
    head = json.dumps({**header, "kind": kind}).encode()
    return struct.pack(">II", len(head), len(body)) + head + body


@hypothesis.seed(7)
@hypothesis.settings(seeded, max_examples=1000)
@given(data=frames(), cuts=st.lists(st.integers(1, 64), max_size=10))
def test_bytes_are_decoded_into_sound_frames_or_refused(data: bytes, cuts: list[int]) -> None:
    decoder, read = Decoder(), list[Frame]()
    try:
        for start, end in itertools.pairwise([0, *itertools.accumulate(cuts), len(data)]):
            read += decoder.feed(data[start:end])
    except BrokenFrame:
        return
    assert all(list(Decoder().feed(encode(frame))) == [frame] for frame in read)


def test_a_runner_that_answers_random_bytes_harms_only_its_own_task() -> None:
    class RandomRunner:
        """Answers with the given bytes, in place of the twin's own answer."""

        def __init__(self) -> None:
            self.answer: bytes | None = None

        async def run(self, request: RunRequest, inputs: Sequence[Input] = ()) -> AsyncGenerator[Frame, None]:
            try:
                for frame in Decoder().feed(self.answer or b""):
                    yield frame
            except BrokenFrame as error:
                raise RunnerLost(str(error)) from error
            raise RunnerLost

    @hypothesis.seed(7)
    @seeded
    @given(data=frames())
    def answered(data: bytes) -> None:
        async def go() -> None:
            async with world() as w:
                random_runner, real_run = RandomRunner(), w.runner.run
                random_runner.answer = data
                w.runner.run = random_runner.run  # type: ignore[method-assign]
                consumer = await w.start()
                task = await w.submit()
                for _ in range(10):
                    await w.clock.advance(2)
                    if w.status(task):
                        break
                assert not consumer.work.done()
                # A runner that did not accept the task costs it no try: it waits for a runner that accepts it.
                waiting = w.status(task) is None
                assert not waiting or w.started(task) == []
                w.runner.run = real_run  # type: ignore[method-assign]
                after = await w.submit()
                await w.clock.advance(20)
                assert w.status(after) == "completed"
                assert w.status(task) in (("completed",) if waiting else ("failed", "completed", "canceled", "expired"))

        asyncio.run(go())

    answered()
