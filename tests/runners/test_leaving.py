"""A runner that shuts down refuses new tasks at once and finishes the ones it accepted."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from config.settings import Settings
from runners.model_folder import inspect
from runners.server import build_app
from tasks.runner_api import Decoder, Frame
from tests.runners.test_server import body, until


@dataclass
class LeavingRunner:
    """A runner on its own event loop."""

    url: str
    loop: asyncio.AbstractEventLoop
    app: Any

    def leave(self) -> Any:
        """Shut the runner down as SIGTERM does. Returns the future of its end."""
        return asyncio.run_coroutine_threadsafe(self.app.state.leave(), self.loop)

    def refuses(self) -> bool:
        """Whether every route that leads to a task answers runner_loading."""
        answers = [httpx.get(f"{self.url}{path}") for path in ("/card", "/models", "/readyz")]
        answer = httpx.post(f"{self.url}/run", json=body())
        return all((each.status_code, each.json()["code"]) == (503, "runner_loading") for each in (*answers, answer))


@contextmanager
def served(cache: Path, grace: float) -> Iterator[LeavingRunner]:
    settings = Settings(model_name="sd-mini", model_cache_dir=cache, runner_device="cpu", runner_grace=grace)  # type: ignore[call-arg]
    app = build_app(inspect(cache, "sd-mini"), settings)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(server.serve(),))
    thread.start()
    runner = LeavingRunner(f"http://127.0.0.1:{port}", loop, app)
    try:
        until(lambda: _ready(runner.url), 90)
        yield runner
    finally:
        server.should_exit = True
        thread.join(30)
        loop.close()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_runner_that_shuts_down_refuses_new_tasks_and_finishes_its_own(cache: Path) -> None:
    with served(cache, grace=60) as runner:
        decoder, frames = Decoder(), list[Frame]()
        shutdown: Any = None
        with httpx.stream("POST", f"{runner.url}/run", json=body(steps=150), timeout=90) as answer:
            for data in answer.iter_raw():
                frames += decoder.feed(data)
                if shutdown is None and any(frame.kind == "step" for frame in frames):
                    shutdown = runner.leave()
                    until(runner.refuses, 10)
                    assert not shutdown.done()
        assert [frame.kind for frame in frames[-3:]] == ["step", "image", "end"]
        shutdown.result(30)
        assert runner.refuses()
        assert httpx.get(f"{runner.url}/livez").status_code == 200


def test_a_task_that_does_not_end_within_the_grace_fails_as_runner_loading(cache: Path) -> None:
    with served(cache, grace=0.2) as runner:
        decoder, frames = Decoder(), list[Frame]()
        shutdown: Any = None
        request = body(steps=150, num_images=4)
        with httpx.stream("POST", f"{runner.url}/run", json=request, timeout=60) as answer:
            for data in answer.iter_raw():
                frames += decoder.feed(data)
                shutdown = shutdown or runner.leave()
        shutdown.result(30)
        assert [frame.kind for frame in frames[-2:]] == ["error", "end"]
        assert frames[-2].code == "runner_loading"  # type: ignore[union-attr]
