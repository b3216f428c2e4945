"""One stack of real processes for the end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import ROOT, Api, Part, Stack, until


@pytest.fixture(scope="session")
def models() -> Path:
    """The project's own folder of models, with both miniatures."""
    return ROOT / "model_cache"


@pytest.fixture(scope="session")
def stack(kafka: Any, s3: Any, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A namespace of its own on the real broker and the real store."""
    s3_env = {
        "AWS_ENDPOINT_URL_S3": s3.endpoint_url,
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    stack = Stack(kafka.bootstrap, s3_env, models, tmp_path_factory.mktemp("stack"))
    stack.provision()
    with stack.running():
        yield stack


@pytest.fixture(scope="session")
def sd_runner(stack: Stack) -> Part:
    """The runner of sd-mini, which also answers to stable-diffusion-v1-5."""
    return stack.runner("sd-mini", MODEL_STAND_INS="stable-diffusion-v1-5=sd-mini")


@pytest.fixture(scope="session")
def flux_runner(stack: Stack) -> Part:
    """The runner of flux-mini."""
    return stack.runner("flux-mini", MODEL_STAND_INS="flux-1-dev=flux-mini")


@pytest.fixture(scope="session")
def gateway(stack: Stack) -> Part:
    """A gateway."""
    return stack.gateway()


@pytest.fixture(scope="session")
def consumer(stack: Stack, sd_runner: Part, flux_runner: Part) -> Part:
    """A consumer that feeds both runners."""
    return stack.consumer(sd_runner, flux_runner)


@pytest.fixture(scope="session")
def api(gateway: Part, consumer: Part, sd_runner: Part, flux_runner: Part) -> Api:
    """The service, ready."""
    for part in (sd_runner, flux_runner, consumer, gateway):
        part.ready()
    api = Api(gateway.url)
    until(lambda: {"sd-mini", "flux-mini"} <= api.model_names(), what="both models known")
    return api
