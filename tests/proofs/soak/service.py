"""The parts of a soak: those that `make run` starts and a second consumer, on free ports and in their own folder."""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from config.settings import load_settings
from infra.local.placement import place
from infra.local.ports import free_ports
from infra.local.process import Part, PartFailed, Process
from infra.local.processes import process_table
from infra.local.servers import HOST
from tests.proofs.soak.evidence import busy
from tests.proofs.soak.schedule import Fault

ROOT = Path(__file__).resolve().parents[3]
MODELS = ("flux-mini", "sd-mini")
_POLL_SECONDS = 0.5
_IDLE_SECONDS = 10.0
_READY_SECONDS = 300.0


class SoakedService:
    """The parts, and the faults that happened to them."""

    def __init__(self, folder: Path) -> None:
        """Nothing runs yet. Changes the environment of this process, which the parts inherit."""
        gateway, consumer, second, kafka, controller, s3, runner, _ = free_ports(6 + len(MODELS))
        self._view = folder / "gateway-view.sqlite"
        # Parts start dozens of times, so bytecode is cached even if the environment turns that off.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(folder / "bytecode"))
        os.environ |= {
            "GATEWAY_PORT": str(gateway),
            "KAFKA_PORT": str(kafka),
            "KAFKA_CONTROLLER_PORT": str(controller),
            "S3_PORT": str(s3),
            "FIRST_RUNNER_PORT": str(runner),
            "LOG_DIR": str(folder / "logs"),
            "MODEL_CACHE_DIR": str(_models(folder)),
            "KAFKA_PARTITIONS": "4",
            "RUNNER_SECRET": secrets.token_urlsafe(32),  # the table is made twice, and each time would make one up
            "LANE_SHARDS": ",".join(f"{model}=4" for model in MODELS),  # otherwise one consumer might own every task
        }
        table = _table(folder, consumer)
        table["consumer-1"] = replace(table["consumer"], name="consumer-1")
        table["consumer-2"] = replace(_table(folder, second)["consumer"], name="consumer-2")
        table["gateway"] = replace(table["gateway"], env={**table["gateway"].env, "VIEW_PATH": str(self._view)})
        self._consumers = (consumer, second)
        self._provision = table["topics"]
        self.parts = {
            name: Process(part, folder / f"{name}.txt")
            for name, part in table.items()
            if name not in ("consumer", "topics")
        }
        self._turns = {name: asyncio.Lock() for name in self.parts}
        os.environ |= table["consumer"].env
        self.settings = load_settings()
        self.url = f"http://{HOST}:{gateway}"
        self.done: Counter[tuple[str, str]] = Counter()
        self.problems: list[str] = []
        self.began_at = 0.0
        self._began = 0.0

    async def open(self) -> None:
        """Start every part and wait until all are ready. Raises PartFailed."""
        for name in ("kafka", "s3", *(name for name in self.parts if name.startswith("runner"))):
            self.parts[name].start()
        await self._ready("kafka", "s3")
        command = [sys.executable, *self._provision.command[1:]]
        await asyncio.to_thread(subprocess.run, command, env={**os.environ, **self._provision.env}, check=True)
        for name in ("consumer-1", "consumer-2", "gateway"):
            self.parts[name].start()
        await self._ready(*self.parts)

    async def inject(self, faults: Sequence[Fault]) -> None:
        """Inject every fault at its time, counted from now. Returns when the last is over."""
        self._began, self.began_at = time.monotonic(), time.time()
        await asyncio.gather(*map(self._inject_one, faults))

    async def watch(self) -> None:
        """Restart every part that dies by itself, as a supervisor would, and note it as a problem. Runs until canceled."""
        while True:
            for name, process in self.parts.items():
                if not self._turns[name].locked() and (cause := process.died()):
                    last_lines = "\n".join(process.last_lines())
                    self.problems.append(f"{name} died by itself {cause}; its last lines:\n{last_lines}")
                    await asyncio.to_thread(process.kill)
                    process.start()
            await asyncio.sleep(_POLL_SECONDS)

    async def wait_until_ready(self) -> None:
        """Wait until every part is ready. Raises PartFailed."""
        await self._ready(*self.parts)

    async def close(self) -> None:
        """Terminate every part, the last started first. A part that does not end or leaves processes is noted as a problem."""
        for name in reversed(self.parts):
            await self._end(self.parts[name])

    async def busy(self) -> list[str]:
        """The metrics that still show work. Waits a while until none does, because the last commit may be under way."""
        metrics = [self.url, *(f"http://{HOST}:{port}" for port in self._consumers)]
        runners, secret = self.settings.runner_urls, self.settings.runner_secret
        deadline = time.monotonic() + _IDLE_SECONDS
        while (samples := await busy(metrics, runners, secret)) and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_SECONDS)
        return samples

    def kill_all(self) -> None:
        """Kill every process that still runs."""
        for process in self.parts.values():
            process.kill()

    async def _ready(self, *names: str) -> None:
        # Each check is short, so that no wait occupies a thread that `watch` needs.
        deadline = time.monotonic() + _READY_SECONDS
        for name in names:
            while not await asyncio.to_thread(self.parts[name].is_ready):
                if time.monotonic() > deadline:
                    raise PartFailed(name, f"is not ready after {_READY_SECONDS:g} s", self.parts[name].last_lines())
                await asyncio.sleep(_POLL_SECONDS)

    async def _inject_one(self, fault: Fault) -> None:
        await asyncio.sleep(self._began + fault.at - time.monotonic())
        process = self.parts[fault.part]
        async with self._turns[fault.part]:
            self._print(fault)
            if fault.kind == "stop":
                await asyncio.to_thread(process.signal, signal.SIGSTOP)
                await asyncio.sleep(fault.down)
                await asyncio.to_thread(process.signal, signal.SIGCONT)
            else:
                if fault.kind == "restart":
                    await self._end(process)
                else:
                    await asyncio.to_thread(process.kill)
                if fault.kind == "wipe":
                    for file in self._view.parent.glob(f"{self._view.name}*"):
                        file.unlink()
                await asyncio.sleep(fault.down)
                process.start()
            self.done[fault.part, fault.kind] += 1

    async def _end(self, process: Process) -> None:
        try:
            await asyncio.to_thread(process.terminate)
        except PartFailed as error:
            self.problems.append(f"after SIGTERM, {error}")
        await asyncio.to_thread(process.kill)

    def _print(self, fault: Fault) -> None:
        print(
            f"{time.monotonic() - self._began:6.1f} s  {fault.kind:<7} {fault.part:<16} {fault.down:5.1f} s", flush=True
        )


def _table(folder: Path, consumer_port: int) -> dict[str, Part]:
    os.environ["CONSUMER_PORT"] = str(consumer_port)
    return {
        part.name: part for row in process_table(load_settings(), folder, place(MODELS, {}, "", ()), ()) for part in row
    }


def _models(folder: Path) -> Path:
    """A copy of the miniatures, so that no other process changes them during the soak."""
    models = folder / "models"
    for model in MODELS:
        shutil.copytree(ROOT / "model_cache" / model, models / model)
    return models
