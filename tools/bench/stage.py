"""The real broker, store and parts for one measurement, and how figures are said."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from config.settings import Settings
from infra.local.servers import HOST, S3, Kafka
from tests.conftest import free_ports, running
from tests.support.stack import Part, Stack
from tools.miniatures.build import build_minis


@contextlib.contextmanager
def stack() -> Iterator[Stack]:
    """A broker, a store, topics, a bucket and the small models in a folder that is thrown away; no part runs yet."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        kafka_port, controller_port, s3_port = free_ports(3)
        kafka = Kafka(folder / "kafka", kafka_port, controller_port)
        s3 = S3(folder / "s3", s3_port)
        (folder / "models").mkdir()
        build_minis(folder / "models")
        with running(kafka), running(s3):
            built = Stack(kafka.bootstrap, s3.env, folder / "models", folder)
            built.settings |= {
                "LOG_LEVEL": "INFO",
                "MAX_QUEUED_TASKS": "10000000",
                "MAX_QUEUED_TASKS_PER_USER": "10000000",
            }
            built.provision()
            with built.running():
                yield built
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def python(stack: Stack, name: str, *command: str, **more: str) -> Part:
    """Another Python process of the stack, given its port as last argument and started."""
    port = free_ports(1)[0]
    part = Part(
        name, [*command, str(port)], stack.env(**more), stack.folder / f"{name}-{port}.log", f"http://{HOST}:{port}"
    )
    stack.parts.append(part)
    return part.start()


def settings_of(stack: Stack) -> Settings:
    """The settings the stack's parts read, for adapters used in this process."""
    named = {name.lower(): value for name, value in stack.env().items()}
    return Settings(**{name: named[name] for name in Settings.model_fields if name in named})


def resident(part: Part) -> float:
    """Resident memory (MiB) of the largest process of the part: the worker, not the process that watches it."""
    return max(process.memory_info().rss for process in part._family()) / 2**20


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def row(what: str, *figures: str) -> None:
    """Print one line of a table."""
    print(f"| {what:<58} | " + " | ".join(f"{figure:>12}" for figure in figures) + " |", flush=True)


def quantiles(what: str, seconds: Sequence[float]) -> None:
    """Print median and 99th percentile in milliseconds."""
    row(
        what, f"{percentile(seconds, 0.5) * 1e3:.2f} ms", f"{percentile(seconds, 0.99) * 1e3:.2f} ms", str(len(seconds))
    )


def title(text: str) -> None:
    """Print a heading that names the load of the machine, which explains much of the noise."""
    load = os.getloadavg()[0]
    print(f"\n### {text}\n(load average {load:.1f} on {os.cpu_count()} cores, {time.strftime('%H:%M:%S')})", flush=True)
