"""The table of every process that `make run` starts."""

import os
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from config.settings import Settings
from infra.local import kafka_auth, parts
from infra.local.placement import Placement
from infra.local.ports import port
from infra.local.process import Part
from infra.local.servers import HOST, S3, Kafka

MINIATURES = {"flux-1-dev": "flux-mini", "stable-diffusion-v1-5": "sd-mini"}
"""The miniature of each model. It answers under the model's name while the model has no folder."""


def stand_ins_for(models: Sequence[str]) -> dict[str, str]:
    """The miniature of each model that has no folder but whose miniature has one, by the model's name."""
    return {name: mini for name, mini in MINIATURES.items() if name not in models and mini in models}


def miniatures_to_build(models: Sequence[str]) -> list[str]:
    """The miniatures that must stand in for a model and have no folder yet."""
    return [mini for name, mini in MINIATURES.items() if name not in models and mini not in models]


def process_table(
    settings: Settings, home: Path, placements: Sequence[Placement], missing: Sequence[str]
) -> list[list[Part]]:
    """Rows of parts, which are stopped from the last row to the first. The grace periods of the parts that do not end
    by themselves add up to at most 14 s.

    `missing`: the models that are miniatures and have to be built first.
    """
    models = sorted({placement.model for placement in placements})
    kafka = Kafka(home / "kafka", port("KAFKA_PORT"), port("KAFKA_CONTROLLER_PORT"), kafka_auth.wanted())
    s3 = S3(home / "s3", port("S3_PORT"))
    broker = kafka.part()
    common = {
        "MODEL_CACHE_DIR": str(settings.model_cache_dir),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_CONTAINERIZED": "1",  # BentoML starts no second worker, so that the death of the first is noticed
        "PYTHONUNBUFFERED": "1",
        "LISTEN_HOST": HOST,
        # The parts share the cores. Two parts that each use all cores slow each other down.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    shared = {**common, **s3.env, **kafka.env}
    stand_ins = ",".join(f"{name}={mini}" for name, mini in stand_ins_for(models).items())
    # A new one at every start: nothing else needs it, so it stands in no file. One that is set reaches the parts as is.
    secret = {} if settings.runner_secret else {"RUNNER_SECRET": secrets.token_urlsafe(32)}
    runner_env = {**common, **secret, "MODEL_STAND_INS": stand_ins, "RUNNER_GRACE": "2"}
    runners = [
        _runner(
            placement,
            home / "bentoml" / placement.name,
            port("FIRST_RUNNER_PORT") + n,
            runner_env | _own_log(settings, placement),
            after=("models",) if placement.model in missing else (),
        )
        for n, placement in enumerate(placements)
    ]
    consumer_env = {**shared, **secret, "CONSUMER_GRACE": "3"}
    gateway_env = {**shared, "LISTEN_HOST": settings.listen_host, "GATEWAY_NOTICE": "0", "GATEWAY_GRACE": "2"}
    gateway = parts.gateway(home / "bentoml" / "gateway", port("GATEWAY_PORT"), gateway_env, after=("topics",))
    if not settings.api_keys_file:
        # Ready means that the first curl works, so every model must have reached the gateway. With API keys on it does
        # not list its models without a key, and `make run` has none.
        gateway = replace(gateway, ready=parts.offers(gateway, models))
    return [
        [broker],
        [s3.part()],
        [Part("topics", ("python", "-m", "infra.local.provision"), shared, after=("kafka", "s3"))],
        [Part("models", _build_miniatures(settings.model_cache_dir), grace=1)] if missing else [],
        runners,
        [parts.consumer(port("CONSUMER_PORT"), [part.url for part in runners], consumer_env, after=("topics",))],
        [gateway],
    ]


def _runner(placement: Placement, home: Path, number: int, env: dict[str, str], after: tuple[str, ...]) -> Part:
    env = {**env, "MODEL_NAME": placement.model}
    if placement.gpu is not None:
        env["CUDA_VISIBLE_DEVICES"] = placement.gpu
    return parts.runner(placement.name, home, number, env, after=after)


def _own_log(settings: Settings, placement: Placement) -> dict[str, str]:
    """A log folder for one of several runners of a model: two processes cannot rotate the same file."""
    several = placement.name != f"runner.{placement.model}"
    return {"LOG_DIR": str(settings.log_dir / placement.name)} if several and settings.log_dir != Path("-") else {}


def _build_miniatures(cache: Path) -> tuple[str, ...]:
    return ("python", "-m", "tools.miniatures.build", "--into", str(cache))
