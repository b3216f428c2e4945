"""One stack of real processes for the end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import ROOT, Api, Process, Stack, until


@pytest.fixture(scope="session")
def models() -> Path:
    """The project's own folder of models, with both miniatures."""
    return ROOT / "model_cache"


@pytest.fixture(scope="session")
def stack(kafka: Any, s3: Any, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The parts of the service with their own namespace on the real broker and the real store."""
    secret = {"RUNNER_SECRET": "shared-by-the-parts-of-this-stack"}
    stack = Stack(kafka.bootstrap, s3.env, models, tmp_path_factory.mktemp("stack"), settings=secret)
    stack.provision()
    with stack.running():
        yield stack


@pytest.fixture(scope="session")
def sd_runner(stack: Stack) -> Process:
    """The runner of sd-mini, which also answers to stable-diffusion-v1-5."""
    return stack.runner("sd-mini", MODEL_STAND_INS="stable-diffusion-v1-5=sd-mini")


@pytest.fixture(scope="session")
def flux_runner(stack: Stack) -> Process:
    """The runner of flux-mini."""
    return stack.runner("flux-mini", MODEL_STAND_INS="flux-1-dev=flux-mini")


@pytest.fixture(scope="session")
def gateway(stack: Stack) -> Process:
    """A gateway."""
    return stack.gateway()


@pytest.fixture(scope="session")
def consumer(stack: Stack, sd_runner: Process, flux_runner: Process) -> Process:
    """A consumer that feeds both runners."""
    return stack.consumer(sd_runner, flux_runner)


@pytest.fixture(scope="session")
def api(gateway: Process, consumer: Process, sd_runner: Process, flux_runner: Process) -> Api:
    """A client of the service, once every part is ready."""
    for part in (sd_runner, flux_runner, consumer, gateway):
        part.wait_until_ready()
    api = Api(gateway.url)
    until(lambda: {"sd-mini", "flux-mini"} <= api.model_names(), what="both models known")
    return api
