"""How each part of the service is started, and how to find out that it is ready."""

import ipaddress
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from infra.local.process import Part
from infra.local.servers import HOST

Env = Mapping[str, str]


def gateway(home: Path, port: int, env: Env, *, after: tuple[str, ...] = ()) -> Part:
    """The gateway. It is ready once its /readyz answers 200."""
    return _service("gateway", "bentos.gateway:GatewayService", home, port, env, after)


def runner(name: str, home: Path, port: int, env: Env, *, after: tuple[str, ...] = ()) -> Part:
    """A runner of the model that MODEL_NAME in `env` names."""
    return _service(name, "bentos.runner:RunnerService", home, port, env, after)


def consumer(port: int, runner_urls: Collection[str], env: Env, *, after: tuple[str, ...] = ()) -> Part:
    """A consumer that feeds these runners."""
    return Part(
        "consumer",
        ("python", "-m", "functions.consume"),
        {**env, "RUNNER_URLS": ",".join(runner_urls), "CONSUMER_PORT": str(port)},
        after=after,
        ready=answers(port),
        grace=4,
        url=f"http://{HOST}:{port}",
    )


def python(name: str, port: int, command: tuple[str, ...], env: Env) -> Part:
    """Another Python program that serves HTTP on the port, with /readyz."""
    return Part(name, ("python", *command), env, ready=answers(port), url=f"http://{HOST}:{port}")


def answers(port: int, host: str = HOST) -> Callable[[], bool]:
    """Whether GET /readyz on the port is answered 200."""

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    return ready


def offers(gateway: Part, models: Collection[str]) -> Callable[[], bool]:
    """Whether the gateway is ready and lists a runner of each of these models."""

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"{gateway.url}/models", timeout=2) as answer:  # noqa: S310 - http
                offered = {entry["model_name"] for entry in json.load(answer)["models"] if entry["runners"]}
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False
        return set(models) <= offered and (gateway.ready is None or gateway.ready())

    return ready


def _service(name: str, service: str, home: Path, port: int, env: Env, after: tuple[str, ...]) -> Part:
    # BentoML wipes the metrics folder in its home at every start, so each service gets a home of its own.
    home.mkdir(parents=True, exist_ok=True)
    command = f"python -m bentoml serve {service} --port {port} --timeout-keep-alive 75"
    host = env.get("LISTEN_HOST", "")
    if host:
        command += f" --host {host}"
    reached_at = HOST if not host or ipaddress.ip_address(host).is_unspecified else host
    return Part(
        name,
        tuple(command.split()),
        {**env, "BENTOML_HOME": str(home)},
        after=after,
        ready=answers(port, reached_at),
        grace=3,
        by_worker=True,
        url=f"http://{reached_at}:{port}",
    )
