"""`make run`: everything on this machine, until Ctrl-C."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from confluent_kafka import KafkaException

from bentos.build import model_folders
from config.settings import Settings, load_settings
from infra.local import kafka_auth
from infra.local.placement import place, visible_gpus
from infra.local.ports import port, ports
from infra.local.private import UMASK, close_files, private_folder
from infra.local.process import PartFailed
from infra.local.processes import miniatures_to_build, process_table, stand_ins_for
from infra.local.servers import HOST
from infra.local.supervisor import Supervisor

_DEFAULT_HOME = Path(".local")
HOME = Path(os.environ.get("LOCAL_DIR") or _DEFAULT_HOME)
"""The folder of Kafka's logs, the images and the data of every part. It is kept, so that a restart loses nothing."""
ROOM_BYTES = 2 * 1024**3
"""Enough for an afternoon of Kafka's logs and images, and the Java packages of the first start."""
_WIDTH = 22
_COLOURS = (36, 32, 33, 35, 34, 96, 92, 93)


def say(name: str, line: str) -> None:
    """Print one line of a part."""
    label = f"{name:<{_WIDTH}}|"
    if sys.stdout.isatty():
        label = f"\x1b[{_COLOURS[sum(name.encode()) % len(_COLOURS)]}m{label}\x1b[0m"
    try:
        print(label, line, flush=True)
    except OSError:
        # The reader has gone (a closed terminal, `| head`): end as SIGHUP does, which stops the parts first.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signal.raise_signal(signal.SIGHUP)


def refuse(sentence: str) -> NoReturn:
    """Exit with this sentence, before any part is started."""
    sys.exit(f"make run: {sentence}")


def check_machine(runners: int) -> None:
    """Exit with a sentence if a port is wrong or taken, or the disk has too little room."""
    try:
        needed = ports(runners)
    except ValueError as error:
        refuse(str(error))
    uses: dict[int, str] = {}
    for what, number in needed.items():
        if number and number in uses:
            refuse(f"{uses[number]} and {what} cannot both have port {number}.")
        uses[number] = what
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, number))
            except OSError:
                refuse(
                    f"port {number} for {what} is already taken. Is another `make run` up? Else choose another port."
                )
    if not HOME.exists() or HOME == _DEFAULT_HOME:
        private_folder(HOME)  # another folder may hold more than the parts keep there; theirs are closed one by one
    private_folder(HOME / "bentoml")
    free = shutil.disk_usage(HOME).free
    if free < ROOM_BYTES:
        refuse(f"the disk has {free / 1024**3:.1f} GiB free; at least {ROOM_BYTES / 1024**3:.0f} GiB are needed.")


def close_to_others(settings: Settings) -> None:
    """Take the rights of other users on logs and a view that an older version wrote. The umask closes new ones."""
    if settings.log_dir == Settings.model_fields["log_dir"].default:
        private_folder(settings.log_dir)
    close_files(settings.log_dir, "ai_image_gen.*.log*", "*/ai_image_gen.*.log*")
    if settings.view_path:
        view = Path(settings.view_path)
        close_files(view.parent, view.name, f"{view.name}-*")


async def main() -> int:
    """Start all parts, watch them until a signal arrives or one dies, then stop them. Returns the exit code."""
    began = time.monotonic()
    os.umask(UMASK)
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Until the supervisor is there, they end this process as Ctrl-C does, so that no broker started by then stays.
        signal.signal(number, signal.default_int_handler)
    settings = load_settings()
    present = model_folders(settings.model_cache_dir)
    missing = miniatures_to_build(present)
    models = sorted([*present, *missing])
    try:
        counts = os.environ.get("RUNNERS", "")
        gpus = await asyncio.to_thread(visible_gpus) if counts else []
        placements = place(models, stand_ins_for(models), counts, gpus)
        kafka_auth.wanted()
    except ValueError as error:
        refuse(str(error))
    check_machine(len(placements))
    close_to_others(settings)
    try:
        table = await asyncio.to_thread(process_table, settings, HOME, placements, missing)
    except subprocess.CalledProcessError as error:
        refuse(f"Kafka does not accept its folder {HOME}/kafka.\n{error.stderr}")
    except (OSError, RuntimeError, KafkaException, PartFailed) as error:
        refuse(f"Kafka and S3 cannot be started: {error}")
    supervisor = Supervisor(table, say)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Set after the supervisor is made, because circus sets handlers of its own, which restart all parts on SIGHUP.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopped.set)
    stopping = asyncio.ensure_future(stopped.wait())
    running = asyncio.ensure_future(_run(supervisor, models, began))
    await asyncio.wait((stopping, running), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    running.cancel()
    (ended,) = await asyncio.gather(running, return_exceptions=True)
    say("run", "stopping")
    stop_began = time.monotonic()
    await supervisor.stop()
    say("run", f"stopped in {time.monotonic() - stop_began:.1f} s")
    if isinstance(ended, PartFailed):
        print(f"make run: {ended}", file=sys.stderr, flush=True)
        return 1
    if not isinstance(ended, asyncio.CancelledError):
        raise ended
    return 0


async def _run(supervisor: Supervisor, models: list[str], began: float) -> NoReturn:
    seconds = await supervisor.start()
    slowest = max(seconds, key=lambda name: seconds[name])
    base = f"http://localhost:{port('GATEWAY_PORT')}"
    names = "".join(f"; {name} is answered by {mini}" for name, mini in stand_ins_for(models).items())
    body = json.dumps({"model_name": models[0], "prompt": "a red circle on a blue background"})
    say(
        "run",
        f"ready after {time.monotonic() - began:.1f} s (longest: {slowest}). "
        f"API {base}, documentation {base}/docs{names}. "
        f"Try: curl {base}/generate_image -H 'Content-Type: application/json' -H 'Prefer: wait=60' "
        f"-H 'Accept: image/*' -d '{body}' -o picture.png",
    )
    await supervisor.watch()


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        sys.exit(130)  # Ctrl-C before anything was started
