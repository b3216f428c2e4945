"""Every process of `make run` as a table: command, what it needs, how it says that it is ready."""

import ipaddress
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from config.settings import Settings
from infra.local.servers import HOST, S3, Kafka
from infra.local.supervisor import Part

MINIATURES = {"flux-1-dev": "flux-mini", "stable-diffusion-v1-5": "sd-mini"}
"""Where a model's own folder is missing, its miniature answers to its name."""
GATEWAY_PORT, CONSUMER_PORT, KAFKA_PORT, CONTROLLER_PORT, S3_PORT, FIRST_RUNNER_PORT = (
    8000,
    8001,
    9092,
    9093,
    9000,
    3001,
)


def stand_ins_for(models: Sequence[str]) -> dict[str, str]:
    """Name and the miniature that answers to it, for each model that is not there."""
    return {name: mini for name, mini in MINIATURES.items() if name not in models and mini in models}


def miniatures_to_build(models: Sequence[str]) -> list[str]:
    """The miniatures that are needed in place of a model and are not there either."""
    return [mini for name, mini in MINIATURES.items() if name not in models and mini not in models]


def port(name: str, default: int) -> int:
    """The port of a part, which the environment may move, e.g. GATEWAY_PORT=8080. Raises ValueError with a sentence."""
    value = os.environ.get(name) or str(default)
    if not value.isdecimal() or int(value) > 65535:
        raise ValueError(f"{name} must be a port, a number up to 65535, not {value!r}.")
    return int(value)


def ports(runners: int) -> dict[str, int]:
    """Every port that must be free, by what it is for."""
    first = port("FIRST_RUNNER_PORT", FIRST_RUNNER_PORT)
    if first + runners - 1 > 65535:
        raise ValueError(f"FIRST_RUNNER_PORT must leave room for {runners} ports up to 65535, not be {first}.")
    return {
        "the gateway (GATEWAY_PORT)": port("GATEWAY_PORT", GATEWAY_PORT),
        "the consumer (CONSUMER_PORT)": port("CONSUMER_PORT", CONSUMER_PORT),
        "Kafka (KAFKA_PORT)": port("KAFKA_PORT", KAFKA_PORT),
        "Kafka's controller (KAFKA_CONTROLLER_PORT)": port("KAFKA_CONTROLLER_PORT", CONTROLLER_PORT),
        "S3 (S3_PORT)": port("S3_PORT", S3_PORT),
        **{f"runner {n + 1} (FIRST_RUNNER_PORT)": first + n for n in range(runners)},
    }


def process_table(settings: Settings, home: Path, models: Sequence[str], missing: Sequence[str]) -> list[list[Part]]:
    """The processes in the order in which they are stopped from last to first; the graces of what goes on sum to 14 s.

    `missing`: which of the models are miniatures that have to be made first.
    """
    kafka = Kafka(home / "kafka", port("KAFKA_PORT", KAFKA_PORT), port("KAFKA_CONTROLLER_PORT", CONTROLLER_PORT))
    s3 = S3(home / "s3", port("S3_PORT", S3_PORT))
    stand_ins = ",".join(f"{name}={mini}" for name, mini in stand_ins_for(models).items())
    shared = {
        **s3.env,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
        "MODEL_CACHE_DIR": str(settings.model_cache_dir),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_CONTAINERIZED": "1",  # BentoML starts no second worker: what killed the first is told instead
        "PYTHONUNBUFFERED": "1",
        "LISTEN_HOST": HOST,
        # Parts share the cores; two that each take all of them are slower than both together need be.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    first = port("FIRST_RUNNER_PORT", FIRST_RUNNER_PORT)
    runners = {model: first + n for n, model in enumerate(models)}
    urls = ",".join(f"http://{HOST}:{number}" for number in runners.values())
    consumer_port, gateway_port = port("CONSUMER_PORT", CONSUMER_PORT), port("GATEWAY_PORT", GATEWAY_PORT)
    host = HOST if ipaddress.ip_address(settings.listen_host).is_unspecified else settings.listen_host
    return [
        [Part("kafka", tuple(kafka.command()), ready=kafka.ready, grace=3)],
        [Part("s3", tuple(s3.command()), ready=s3.ready, grace=1)],
        [Part("topics", ("python", "-m", "infra.local.provision"), shared, after=("kafka", "s3"))],
        [Part("models", _making(settings.model_cache_dir), grace=1)] if missing else [],
        [
            _service(home, f"runner.{model}", "bentos.runner:RunnerService", number, {
                **shared, "MODEL_NAME": model, "MODEL_STAND_INS": stand_ins, "RUNNER_GRACE": "2"
            }, after=("models",) if model in missing else ())
            for model, number in runners.items()
        ],
        [
            Part(
                "consumer",
                ("python", "-m", "functions.consume"),
                {**shared, "RUNNER_URLS": urls, "CONSUMER_PORT": str(consumer_port), "CONSUMER_GRACE": "3"},
                after=("topics",),
                ready=_answers(consumer_port),
                grace=4,
            )
        ],
        [
            replace(
                _service(home, "gateway", "bentos.gateway:GatewayService", gateway_port, {
                    **shared, "LISTEN_HOST": settings.listen_host, "GATEWAY_NOTICE": "0", "GATEWAY_GRACE": "2"
                }, after=("topics",)),
                # Ready means that the first curl works: every model must have reached the gateway. It does not tell
                # which have where API keys are on, for we have none.
                ready=_answers(gateway_port, host) if settings.api_keys_file else _offers(gateway_port, host, runners),
            )
        ],
    ]  # fmt: skip


def _making(cache: Path) -> tuple[str, ...]:
    return ("python", "-m", "tools.miniatures.build", "--into", str(cache))


def _service(
    home: Path, name: str, service: str, number: int, env: dict[str, str], after: tuple[str, ...] = ()
) -> Part:
    bentoml_home = home / "bentoml" / name
    bentoml_home.mkdir(parents=True, exist_ok=True)
    command = f"python -m bentoml serve {service} --host {env['LISTEN_HOST']} --port {number} --timeout-keep-alive 75"
    env = {**env, "BENTOML_HOME": str(bentoml_home)}
    return Part(name, tuple(command.split()), env, after=after, ready=_answers(number), grace=3, by_worker=True)


def _offers(number: int, host: str, models: Collection[str]) -> Callable[[], bool]:
    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://{host}:{number}/models", timeout=2) as answer:
                offered = {entry["model_name"] for entry in json.load(answer)["models"] if entry["runners"]}
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False
        return set(models) <= offered and _answers(number, host)()

    return ready


def _answers(number: int, host: str = HOST) -> Callable[[], bool]:
    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://{host}:{number}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    return ready
