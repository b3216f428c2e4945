"""One process family of a soak: killed, stopped, ended and started alone."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from infra.local import supervisor

READY_SECONDS = 300.0
END_SECONDS = 60.0
"""A part that has not ended so long after SIGTERM counts as stuck."""
_GONE_SECONDS = 10.0
_LAST_LINES = 15


class Broken(Exception):
    """The soak cannot go on: a part does not start, or does not die."""


@dataclass
class Process:
    """A part and all it starts: what carries its mark in the environment, whatever session it moved to."""

    part: supervisor.Part
    mark: str
    log: Path
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    process: subprocess.Popen[bytes] | None = None
    _wanted: bool = False
    _worked: bool = False

    def start(self) -> None:
        """Start it."""
        program = sys.executable if self.part.command[0] == "python" else self.part.command[0]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [program, *self.part.command[1:]],
                env={**os.environ, **self.part.env, supervisor._MARK: self.mark},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._wanted, self._worked = True, False

    def signal(self, number: signal.Signals) -> None:
        """Send it to every process of the part, again until none was missed: one may just have been born."""
        reached: set[psutil.Process] = set()
        while new := self._family() - reached:
            for one in new:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.send_signal(number)
            reached |= new

    def _family(self) -> set[psutil.Process]:
        family = set(marked(self.mark))
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                family.add(psutil.Process(self.process.pid))  # it bears no mark yet where it was started this instant
        return family

    def kill(self) -> None:
        """kill -9. Raises Broken where something is still there afterwards."""
        self._wanted = False
        deadline = time.monotonic() + _GONE_SECONDS
        while self._family():
            self.signal(signal.SIGKILL)
            if time.monotonic() > deadline:
                raise Broken(f"{self.part.name} survives kill -9")
            time.sleep(0.02)

    def terminate(self) -> bool:
        """SIGTERM to its first process, as a supervisor sends it; whether all of it ended in time and by itself."""
        self._wanted = False
        assert self.process is not None
        self.process.terminate()
        deadline = time.monotonic() + END_SECONDS
        while self.process.poll() is None or any(marked(self.mark)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def died(self) -> str | None:
        """How it ended, where it ended by itself."""
        if not self._wanted or self.process is None:
            return None
        if (code := self.process.poll()) is not None:
            return f"with exit code {code}"
        if self.part.by_worker:
            has_worker = supervisor.has_worker(self.process.pid)
            if self._worked and not has_worker:
                return "with its worker process"
            self._worked = has_worker
        return None

    def last_lines(self) -> str:
        """What it said last."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LAST_LINES:])

    async def ready(self) -> None:
        """Return once it says that it is ready. Raises Broken."""
        deadline = time.monotonic() + READY_SECONDS
        assert self.part.ready is not None
        while not await asyncio.to_thread(self.part.ready):
            if time.monotonic() > deadline or self.died():
                raise Broken(
                    f"{self.part.name} has died or is not ready after {READY_SECONDS:g} s:\n{self.last_lines()}"
                )
            await asyncio.sleep(0.2)


def marked(mark: str) -> Iterator[psutil.Process]:
    """Every living process that was started, at any remove, under the mark or a longer one."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # ended meanwhile, or somebody else's
            ours = process.environ().get(supervisor._MARK, "").startswith(mark)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                yield process
