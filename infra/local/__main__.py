"""`make run`: everything on this machine, until Ctrl-C."""

import asyncio
import contextlib
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

from config.settings import load_settings
from infra.local.parts import aliases_for, models_in, port, ports, rows
from infra.local.servers import HOST
from infra.local.supervisor import PartDied, Supervisor

HOME = Path(".local")
ROOM_BYTES = 2 * 1024**3
"""Kafka's logs of an afternoon, the pictures, and the Java packages of the first start."""
_WIDTH = 18
_COLOURS = (36, 32, 33, 35, 34, 96, 92, 93)


def say(name: str, line: str) -> None:
    """One line of the log stream."""
    label = f"{name:<{_WIDTH}}|"
    if sys.stdout.isatty():
        label = f"\x1b[{_COLOURS[sum(name.encode()) % len(_COLOURS)]}m{label}\x1b[0m"
    print(label, line, flush=True)


def refuse(sentence: str) -> None:
    """End before anything was started."""
    sys.exit(f"make run: {sentence}")


def check_machine(runners: int) -> None:
    """Exit with a sentence where a port is taken or the disk has no room."""
    for what, number in ports(runners).items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, number))
            except OSError:
                refuse(
                    f"port {number} for {what} is already taken. Is another `make run` up? Else choose another port."
                )
    HOME.mkdir(exist_ok=True)
    free = shutil.disk_usage(HOME).free
    if free < ROOM_BYTES:
        refuse(f"the disk has {free / 1024**3:.1f} GiB free; at least {ROOM_BYTES / 1024**3:.0f} GiB are needed.")


async def main() -> int:
    """Start, watch, stop; the exit code."""
    began = time.monotonic()
    settings = load_settings()
    if not models_in(settings.model_cache_dir):
        say("models", "building the miniatures")
        await _build_minis(settings.model_cache_dir)
    models = models_in(settings.model_cache_dir)
    check_machine(len(models))
    supervisor = Supervisor(await asyncio.to_thread(rows, settings, HOME, models), say)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopped.set)
    stopping = asyncio.ensure_future(stopped.wait())
    running = asyncio.ensure_future(_run(supervisor, models, began))
    await asyncio.wait((stopping, running), return_when=asyncio.FIRST_COMPLETED)
    failure = running.exception() if running.done() else None
    stopping.cancel()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError, PartDied):
        await running
    say("run", "stopping")
    stop_began = time.monotonic()
    await supervisor.stop()
    say("run", f"stopped in {time.monotonic() - stop_began:.1f} s")
    if isinstance(failure, PartDied):
        print(f"make run: {failure}", file=sys.stderr, flush=True)
        return 1
    if failure is not None:
        raise failure
    return 0


async def _build_minis(into: Path) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "model_cache.build_minis", "--into", str(into))
    if await process.wait():
        refuse("the miniatures could not be built; what went wrong stands above.")


async def _run(supervisor: Supervisor, models: list[str], began: float) -> None:
    seconds = await supervisor.start()
    slowest = max(seconds, key=lambda name: seconds[name])
    base = f"http://localhost:{port('GATEWAY_PORT', 8000)}"
    names = "".join(f"; {name} is answered by {mini}" for name, mini in aliases_for(models).items())
    say(
        "run",
        f"ready after {time.monotonic() - began:.1f} s (longest: {slowest}). API {base}, documentation {base}/docs{names}. "
        f"Try: curl {base}/generate_image -H 'Content-Type: application/json' -H 'Prefer: wait=60' -H 'Accept: image/*' "
        f'-d \'{{"model_name": "{models[0]}", "prompt": "a red circle on a blue background"}}\' -o picture.png',
    )
    await supervisor.watch()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
