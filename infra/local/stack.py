"""Real parts on free ports, with topics and a bucket of their own: for tests and measurements."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from config.settings import Settings, load_settings
from infra.local import parts
from infra.local.ports import free_ports
from infra.local.process import ROOT, Part, Process


@dataclass
class Stack:
    """The names of topics, a group and a bucket that no other stack uses, and the parts that use them.

    `bootstrap` is the broker's address, `s3_env` the settings of the store, `models` the folder of models, and `folder`
    keeps the logs of the parts. `settings` are further settings of every part.
    """

    bootstrap: str
    s3_env: Mapping[str, str]
    models: Path
    folder: Path
    prefix: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:8]}")
    parts: list[Process] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    def env(self, **more: str) -> dict[str, str]:
        """The environment of a part."""
        return {
            **os.environ,
            **self.s3_env,
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "KAFKA_TOPIC_PREFIX": self.prefix,
            "KAFKA_GROUP": f"{self.prefix}.consumer",
            "KAFKA_PARTITIONS": "4",
            "S3_BUCKET": f"{self.prefix}-images",
            "MODEL_CACHE_DIR": str(self.models),
            "LOG_DIR": str(self.folder / "logs"),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "BENTOML_DO_NOT_TRACK": "True",
            **self.settings,
            **more,
        }

    def read_settings(self) -> Settings:
        """The settings that its parts read, for adapters used in this process."""
        return load_settings(self.env())

    def provision(self) -> None:
        """Create the topics and the bucket."""
        subprocess.run([sys.executable, "-m", "infra.local.provision"], cwd=ROOT, env=self.env(), check=True)

    def runner(self, model: str, **more: str) -> Process:
        """Start a runner of the model. Does not wait until it is ready."""
        (port,) = free_ports(1)
        return self.start(parts.runner(f"runner-{model}", self._home(port), port, self.env(MODEL_NAME=model, **more)))

    def gateway(self, **more: str) -> Process:
        """Start a gateway. Does not wait until it is ready."""
        (port,) = free_ports(1)
        return self.start(parts.gateway(self._home(port), port, self.env(**more)))

    def consumer(self, *runners: Process, **more: str) -> Process:
        """Start a consumer that feeds these runners. Does not wait until it is ready."""
        (port,) = free_ports(1)
        return self.start(parts.consumer(port, [runner.url for runner in runners], self.env(**more)))

    def python(self, name: str, *command: str, **more: str) -> Process:
        """Start another Python program, with its port as the last argument. Does not wait until it is ready."""
        (port,) = free_ports(1)
        return self.start(parts.python(name, port, (*command, str(port)), self.env(**more)))

    def start(self, part: Part) -> Process:
        """Start any part. Does not wait until it is ready."""
        number = len(self.parts)
        self.parts.append(Process(part, self.folder / f"{part.name}-{number}.log"))
        return self.parts[-1].start()

    @contextmanager
    def running(self) -> Iterator["Stack"]:
        """The stack. At the end every part that still runs is killed."""
        try:
            yield self
        finally:
            for process in reversed(self.parts):
                process.kill()

    def _home(self, port: int) -> Path:
        return self.folder / f"bentoml-{port}"
