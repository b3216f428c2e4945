"""Runs all parts of `make run` on circus: starts each when the parts it needs are ready, stops them in order, and
stops all when one dies."""

import asyncio
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from circus.arbiter import Arbiter
from circus.watcher import Watcher
from tornado.ioloop import IOLoop

from infra.local.process import LAST_LINES, Part, PartFailed, has_worker, kill_marked

Say = Callable[[str, str], None]
"""Prints one line of a part: (name, line)."""

TICK_SECONDS = 0.1
_WORKER_SECONDS = 1.0  # checking all processes takes some milliseconds


def startable(parts: Collection[Part], started: Collection[str], ready: Collection[str]) -> list[Part]:
    """The parts that are not started and whose `after` are all ready."""
    return [part for part in parts if part.name not in started and set(part.after) <= set(ready)]


class Supervisor:
    """Runs rows of parts. Rows stop from the last to the first, the parts of one row together."""

    def __init__(self, rows: Sequence[Sequence[Part]], say: Say) -> None:
        """Starts nothing yet. Needs a running event loop. `say` prints one line of a part."""
        self._rows = rows
        self._say = say
        self._parts = {part.name: part for row in rows for part in row}
        self._run = uuid.uuid4().hex
        self._last = {name: deque[str](maxlen=LAST_LINES) for name in self._parts}
        self._ended: dict[str, int] = {}
        self._ready: dict[str, float] = {}
        self._worked: set[str] = set()
        self._look_at_workers = 0.0
        self._began = time.monotonic()
        self._watchers = {name: self._watcher(part) for name, part in self._parts.items()}
        # The endpoints are inside this process, so that no other process can control it. `_check` replaces the timer.
        self._arbiter = Arbiter(
            list(self._watchers.values()),
            "inproc://control",
            "inproc://events",
            loop=IOLoop.current(),
            check_delay=-1,
            proc_name="ai-image-gen",
        )

    async def start(self) -> dict[str, float]:
        """Start all parts; return once every one is ready, with the seconds each took. Raises PartFailed."""
        await self._arbiter.start()
        started: set[str] = set()
        while len(self._ready) < len(self._parts):
            for part in startable(self._parts.values(), started, self._ready):
                started.add(part.name)
                await self._watchers[part.name].start()
            await self._check()
            await asyncio.gather(*(self._probe(self._parts[name]) for name in started - set(self._ready)))
            await asyncio.sleep(TICK_SECONDS)
        return dict(self._ready)

    async def watch(self) -> NoReturn:
        """Watch the parts until one dies. Raises PartFailed."""
        while True:
            await self._check()
            await asyncio.sleep(TICK_SECONDS)

    async def stop(self) -> None:
        """Stop every part, the last row first, and every process that they started."""
        for row in reversed(self._rows):
            watchers = [self._watchers[part.name] for part in row]
            await self._arbiter.stop_watchers(watcher_iter_func=lambda reverse, row=watchers: row)
            for part in row:
                kill_marked(self._mark(part.name))
        await self._arbiter.stop()

    async def _check(self) -> None:
        # circus' `manage_watchers` also reaps processes, but it loses a process that ends between its two halves, and
        # it stops all parts while any part has no process.
        self._arbiter.reap_processes()
        for name, code in self._ended.items():
            if self._parts[name].ready is not None or code != 0:
                raise PartFailed(name, f"ended with exit code {code}", self._last[name])
            self._is_ready(name)
        if time.monotonic() >= self._look_at_workers:
            self._look_at_workers = time.monotonic() + _WORKER_SECONDS
            self._check_workers()

    def _check_workers(self) -> None:
        for name in (name for name, part in self._parts.items() if part.by_worker):
            for process in self._watchers[name].processes.values():
                if has_worker(process.pid):
                    self._worked.add(name)
                elif name in self._worked:
                    raise PartFailed(name, "ended with its worker process", self._last[name])

    async def _probe(self, part: Part) -> None:
        if part.ready is not None and await asyncio.to_thread(part.ready):
            self._is_ready(part.name)

    def _is_ready(self, name: str) -> None:
        if name not in self._ready:
            self._ready[name] = time.monotonic() - self._began
            self._say(name, f"ready after {self._ready[name]:.1f} s")

    def _mark(self, name: str) -> str:
        return f"{self._run}/{name}"

    def _watcher(self, part: Part) -> Watcher:
        lines = {stream: _Lines(part.name, self._say, self._last[part.name]) for stream in ("stdout", "stderr")}

        outputs: dict[str, int] = {}

        def spawned(watcher: Watcher, pid: int, **_: Any) -> bool:
            # When a part that circus stops has died, circus closes the part's pipes, even with unread lines in them.
            # Copies of the pipes keep these lines.
            process = watcher.processes[pid]
            outputs.update((name, os.dup(getattr(process, name).fileno())) for name in lines)
            return True

        def drain(**_: Any) -> None:
            for name, descriptor in outputs.items():
                lines[name].drain(descriptor)
                os.close(descriptor)
            outputs.clear()

        def ended(exit_code: int, **_: Any) -> None:
            self._ended[part.name] = exit_code
            kill_marked(self._mark(part.name))

        return Watcher(
            part.name,
            part.program,
            args=list(part.command[1:]),
            env=part.environment(self._mark(part.name)),
            autostart=False,
            respawn=False,
            graceful_timeout=part.grace,
            stdout_stream={"stream": lines["stdout"]},
            stderr_stream={"stream": lines["stderr"]},
            hooks={"after_spawn": (spawned, False), "before_reap": (drain, False), "after_reap": (ended, False)},
        )


class _Lines:
    """Cuts the output of one stream of a part into lines."""

    def __init__(self, name: str, say: Say, last: deque[str]) -> None:
        self._name = name
        self._say = say
        self._last = last
        self._rest = b""

    def __call__(self, chunk: Mapping[str, Any]) -> None:
        *whole, self._rest = (self._rest + chunk["data"]).split(b"\n")
        for raw in whole:
            line = raw.decode(errors="replace").rstrip()
            self._last.append(line)
            self._say(self._name, line)

    def drain(self, descriptor: int) -> None:
        """Read what a process left in its pipe when it ended, also a last line without a newline."""
        os.set_blocking(descriptor, False)
        try:
            while data := os.read(descriptor, 65536):
                self({"data": data})
        except BlockingIOError:
            pass
        if self._rest:
            self({"data": b"\n"})
