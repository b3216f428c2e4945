"""How long each part takes to end on SIGTERM under load, and how long work stops after a part's kill -9.

A killed part is started again at once, as a platform would do. The work goes on when a task that was submitted after
the kill is completed.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

import httpx

from infra.local.process import Process, until
from tools.bench.stage import row, stage, title

_STEPS = 20
_SECONDS = 400.0


def measure() -> None:
    """Print the tables."""
    with stage() as built:
        runner = built.stack.runner("sd-mini")
        parts = {"runner": runner, "consumer": built.stack.consumer(runner), "gateway": built.stack.gateway()}
        for part in parts.values():
            part.wait_until_ready(_SECONDS)
        url = parts["gateway"].url
        until(lambda: "sd-mini" in httpx.get(f"{url}/models", timeout=30).text, _SECONDS, "the model known")
        with _load(url):
            title("SIGTERM to exit, under load (seconds)")
            for name, part in parts.items():
                began = time.monotonic()
                code = part.terminate(_SECONDS)
                row(f"{name} (exit code {code})", f"{time.monotonic() - began:.2f}")
                part.start().wait_until_ready(_SECONDS)
                _next_task(url)
            title("kill -9, started again at once, to the next completed task (seconds)")
            row("", "to the next", "of which start")
            for name, victim in {**parts, "broker": built.broker, "store": built.store}.items():
                _killed(url, name, victim)


def _killed(url: str, name: str, victim: Process) -> None:
    victim.kill()
    began = time.monotonic()
    victim.start().wait_until_ready(_SECONDS)
    ready = time.monotonic() - began
    _next_task(url)
    row(name, f"{time.monotonic() - began:.2f}", f"{ready:.2f}")


def _next_task(url: str) -> None:
    """Submit tasks until one of them is completed."""
    body = {"model_name": "sd-mini", "prompt": "a red circle", "image_params": {"steps": 1}, "user_id": "watch"}

    def done() -> bool:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(f"{url}/generate_image", json=body, headers={"Prefer": "wait=60"}, timeout=70)
            return answer.status_code == 200 and answer.json()["status"] == "completed"
        return False

    until(done, _SECONDS, "a task completed")


@contextlib.contextmanager
def _load(url: str) -> Iterator[None]:
    """One user who always has a task waiting and one running."""
    stop = threading.Event()

    def work() -> None:
        body = {"model_name": "sd-mini", "prompt": "a ring", "image_params": {"steps": _STEPS}}
        while not stop.is_set():
            with contextlib.suppress(httpx.TransportError):
                httpx.post(f"{url}/generate_image", json=body, headers={"Prefer": "wait=10"}, timeout=20)
            stop.wait(0.2)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
