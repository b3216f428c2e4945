"""`python -m tests.proofs.soak --minutes 10 --kills 200 --seed 7`: the real service under load while its parts are killed,
stopped and restarted. Exits with 1 when a promise broke, and keeps the folder with every log then."""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from tests.proofs.soak import evidence
from tests.proofs.soak.evidence import Evidence
from tests.proofs.soak.judge import broken
from tests.proofs.soak.pictures import Looks
from tests.proofs.soak.report import figures, table
from tests.proofs.soak.schedule import schedule
from tests.proofs.soak.service import SoakedService
from tests.proofs.soak.users import People

USERS = 16
DRAIN_SECONDS = 240.0
"""A runner's start on a busy machine, and what was queued meanwhile."""


def say(line: str) -> None:
    """Print it now."""
    print(line, flush=True)


async def soak(minutes: float, kills: int, seed: int, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Run it; what broke, and the figures. Raises PartFailed where a part does not come back."""
    service, looks = SoakedService(folder), Looks()
    try:
        await service.open()
        say(f"all parts are ready; {USERS} users, {minutes:g} minutes, {kills} kills, seed {seed}")
        people = People(service.url, seed, USERS)
        watching = asyncio.ensure_future(service.watch())
        living = asyncio.ensure_future(people.live())
        await service.suffer(schedule(minutes, kills, seed))
        people.leave()
        await service.heal()
        say("all parts are ready again; what was asked for comes to its end")
        began = time.monotonic()
        problems = await _drain(living, service)
        left = await _look(service)
        drained = time.monotonic() - began
        watching.cancel()
        (ended,) = await asyncio.gather(watching, return_exceptions=True)
        if isinstance(ended, Exception):
            raise ended
        await service.close()
        problems += people.ledger.problems + service.problems + broken(left, people.ledger, looks)
        return problems, figures(service, people.ledger, left, looks, drained)
    finally:
        service.abandon()


async def _drain(living: "asyncio.Future[None]", service: SoakedService) -> list[str]:
    """Wait until every user is content and the group has committed all; what is not so in time."""
    deadline = time.monotonic() + DRAIN_SECONDS
    await asyncio.wait((living,), timeout=DRAIN_SECONDS)
    if not living.done():
        living.cancel()
        return [f"some users still wait {DRAIN_SECONDS:g} s after everything was back"]
    living.result()
    while time.monotonic() < deadline:
        try:
            if not any((await asyncio.to_thread(evidence.behind, service.settings)).values()):
                break
        except KafkaException:
            pass
        await asyncio.sleep(0.5)
    return []


async def _look(service: SoakedService) -> Evidence:
    log = await asyncio.to_thread(evidence.read_log, service.settings)
    outcomes, stored = await asyncio.to_thread(evidence.read_store, service.settings)
    told = await evidence.ask(service.url, log.tasks.keys())
    return Evidence(log, outcomes, stored, told, await service.busy())


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.proofs.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no part is left behind then either
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    say(f"seed {asked.seed}; logs and data are in {folder}")
    problems, counted = asyncio.run(soak(asked.minutes, asked.kills, asked.seed, folder))
    say(table(counted))
    if asked.json is not None:
        asked.json.write_text(json.dumps({"broken": Counter(problems), **counted}, indent=2) + "\n")
    for problem, times in Counter(problems).items():
        say(f"BROKEN, {times} times: {problem}")
    if problems:
        say(f"{len(set(problems))} broken promises; every log is in {folder}")
        return 1
    shutil.rmtree(folder)
    say("no promise was broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
