"""One part of the service as a process of its own: start, signal, kill, terminate, wait until it is ready.

The supervisor of `make run`, the measurements in tools/ and the tests start every real part with this module.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

import psutil

from infra.local.private import UMASK

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 90.0
END_SECONDS = 60.0
"""A part that still runs this long after SIGTERM counts as stuck."""
LAST_LINES = 15
_KILL_SECONDS = 10.0
_POLL_SECONDS = 0.02
# The name of an environment variable, which every descendant of a part inherits. BentoML's workers move to sessions of
# their own and outlive a killed parent, so neither a process group nor the tree of children finds them.
_MARK = "LOCAL_PART"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Part:
    """What to run. `after` names the parts that must be ready before it starts.

    `ready` returns whether it is ready; None: the part is a job, which is ready once it has ended with exit code 0.
    `grace`: seconds from SIGTERM to SIGKILL. `by_worker`: a child process does the work, and the part counts as dead
    without it. `url`: the address of a part that serves HTTP.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    ready: Callable[[], bool] | None = None
    grace: float = 5.0
    by_worker: bool = False
    url: str = ""

    @property
    def program(self) -> str:
        """The executable. `python` means the interpreter of this process."""
        return sys.executable if self.command[0] == "python" else self.command[0]

    def environment(self, mark: str) -> dict[str, str]:
        """The environment of its process. `mark` identifies the process and its descendants. A secret that the part is
        given is not read from the file that the caller's environment names for it."""
        files = {f"{name}_FILE" for name in self.env}
        inherited = {name: value for name, value in os.environ.items() if name not in files}
        return {**inherited, **self.env, _MARK: mark}


class PartFailed(Exception):
    """A part ended by itself, a job failed, or a part does not become ready or does not end."""

    def __init__(self, name: str, what: str, last_lines: Sequence[str]) -> None:
        """`what`: the rest of the sentence that begins with the part's name."""
        lines = "".join(f"\n    {line}" for line in last_lines) or " nothing"
        super().__init__(f"{name} {what}. Its last output:{lines}")


class Process:
    """A part that can be started, ended and started again, with every process that it starts in turn."""

    def __init__(self, part: Part, log: Path) -> None:
        """Starts nothing yet. `log`: the file to which its output is appended."""
        self.part = part
        self.log = log
        self._mark = f"{uuid.uuid4().hex}/{part.name}"
        self._popen: subprocess.Popen[bytes] | None = None
        self._should_run = False
        self._had_worker = False

    @property
    def name(self) -> str:
        """The part's name."""
        return self.part.name

    @property
    def url(self) -> str:
        """The address at which the part serves HTTP."""
        return self.part.url

    @property
    def exit_code(self) -> int | None:
        """The exit code of its first process; None while the process runs, or before it was started."""
        return self._popen.poll() if self._popen is not None else None

    def start(self) -> Self:
        """Start it, from the root of the repository, and return at once."""
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [self.part.program, *self.part.command[1:]],
                cwd=ROOT,
                env=self.part.environment(self._mark),
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=UMASK,
            )
        self._should_run, self._had_worker = True, False
        return self

    def is_ready(self) -> bool:
        """Whether it is ready. Raises PartFailed if it has died."""
        if how := self.died():
            raise self._failed(f"ended {how}")
        assert self.part.ready is not None, f"{self.name} is a job"
        return self.part.ready()

    def wait_until_ready(self, seconds: float = READY_SECONDS) -> Self:
        """Return once it is ready. Raises PartFailed if it dies before that, or takes longer."""
        deadline = time.monotonic() + seconds
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise self._failed(f"is not ready after {seconds:g} s")
            time.sleep(_POLL_SECONDS)
        return self

    def processes(self) -> set[psutil.Process]:
        """Its living processes: the first one and all descendants."""
        living = set(marked(self._mark))
        if self._popen is not None and self._popen.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                living.add(psutil.Process(self._popen.pid))  # between fork and exec it has no mark yet
        return living

    def signal(self, number: signal.Signals) -> None:
        """Send the signal to all its processes, also to those that are started meanwhile."""
        reached: set[psutil.Process] = set()
        while new := self.processes() - reached:
            for process in new:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            reached |= new

    def kill(self) -> None:
        """Send SIGKILL to all its processes; return once they are gone. Raises PartFailed if one stays."""
        self._should_run = False
        deadline = time.monotonic() + _KILL_SECONDS
        while self.processes():
            self.signal(signal.SIGKILL)
            if time.monotonic() > deadline:
                raise self._failed("survives SIGKILL")
            time.sleep(_POLL_SECONDS)

    def ask_to_end(self) -> None:
        """Send SIGTERM to its first process, as a supervisor does; return at once."""
        self._should_run = False
        assert self._popen is not None, f"{self.name} was not started"
        self._popen.terminate()

    def terminate(self, seconds: float = END_SECONDS) -> int:
        """Send SIGTERM to its first process, as a supervisor does. Returns its exit code once all processes have ended.

        Raises PartFailed if one of them still runs after that many seconds.
        """
        self.ask_to_end()
        return self.wait_until_ended(seconds)

    def wait_until_ended(self, seconds: float = END_SECONDS) -> int:
        """The exit code of the first process, once all have ended. Raises PartFailed if one still runs after that many
        seconds."""
        deadline = time.monotonic() + seconds
        while left := self.processes():
            if time.monotonic() > deadline:
                raise self._failed(f"still runs {_command_lines(left)} after {seconds:g} s")
            time.sleep(_POLL_SECONDS)
        assert self.exit_code is not None
        return self.exit_code

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Start it, wait until it is ready, and kill it at the end."""
        try:
            yield self.start().wait_until_ready()
        finally:
            self.kill()

    def died(self) -> str | None:
        """How it ended, if it ended by itself; None otherwise."""
        if not self._should_run or self._popen is None:
            return None
        if self.exit_code is not None:
            return f"with exit code {self.exit_code}"
        if self.part.by_worker:
            works = has_worker(self._popen.pid)
            if self._had_worker and not works:
                return "with its worker process"
            self._had_worker = works
        return None

    def last_lines(self) -> list[str]:
        """The end of its output."""
        return self.log.read_text(errors="replace").splitlines()[-LAST_LINES:] if self.log.exists() else []

    def _failed(self, what: str) -> PartFailed:
        return PartFailed(self.name, what, self.last_lines())


def until(condition: Callable[[], _T], seconds: float = 30.0, what: str = "the condition") -> _T:
    """Poll until the condition returns something true, and return that. Raises TimeoutError after that many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(_POLL_SECONDS)
    raise TimeoutError(f"{what} did not come true within {seconds:g} s")


def has_worker(pid: int) -> bool:
    """Whether the process has a living child."""
    try:
        return any(child.status() != psutil.STATUS_ZOMBIE for child in psutil.Process(pid).children())
    except psutil.NoSuchProcess:
        return True  # the parent or a child ended during this check: the next check decides


def marked(mark: str) -> Iterator[psutil.Process]:
    """Every living process that was started with this mark, and its descendants."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile, or belongs to another user
            if process.environ().get(_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def kill_marked(mark: str) -> None:
    """SIGKILL to every process that was started with this mark, and to its descendants."""
    for process in marked(mark):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _command_lines(processes: set[psutil.Process]) -> list[str]:
    lines = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            lines.append(" ".join(process.cmdline()))
    return lines
