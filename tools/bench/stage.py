"""The real broker, store and parts of a measurement, and the printing of its figures."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.local.ports import free_ports
from infra.local.process import Process
from infra.local.servers import S3, Kafka
from infra.local.stack import Stack
from tools.miniatures.build import build_minis


@dataclass
class Stage:
    """A stack, and the broker and the store that it uses."""

    stack: Stack
    broker: Process
    store: Process


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """A broker, a store, topics, a bucket and the small models in a folder that is thrown away; no part runs yet."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    kafka_port, controller_port, s3_port = free_ports(3)
    kafka, s3 = Kafka(folder / "kafka", kafka_port, controller_port), S3(folder / "s3", s3_port)
    try:
        (folder / "models").mkdir()
        build_minis(folder / "models")
        broker, store = Process(kafka.part(), folder / "kafka.log"), Process(s3.part(), folder / "s3.log")
        with broker.running(), store.running():
            stack = Stack(kafka.bootstrap, s3.env, folder / "models", folder)
            stack.settings |= {
                "LOG_LEVEL": "INFO",
                "MAX_QUEUED_TASKS": "10000000",
                "MAX_QUEUED_TASKS_PER_USER": "10000000",
            }
            stack.provision()
            with stack.running():
                yield Stage(stack, broker, store)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def stack() -> Iterator[Stack]:
    """The stack alone, for a measurement that leaves broker and store as they are."""
    with stage() as built:
        yield built.stack


def resident(part: Process) -> float:
    """Resident memory (MiB) of the largest process of the part: the worker, not the process that watches it."""
    return float(max(process.memory_info().rss for process in part.processes()) / 2**20)


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
