"""`python -m tests.proofs.soak --minutes 10 --kills 200 --seed 7`: the real service under load while its parts are killed,
stopped and restarted. Exits with 1 if a promise broke, and then keeps the folder with every log."""

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
from tests.proofs.soak.judge import broken_promises
from tests.proofs.soak.pictures import PictureComparison
from tests.proofs.soak.report import figures, table
from tests.proofs.soak.schedule import schedule
from tests.proofs.soak.service import SoakedService
from tests.proofs.soak.users import Users

USERS = 16
DRAIN_SECONDS = 240.0
"""Enough for a runner to start on a busy machine and to finish the tasks queued meanwhile."""


def say(line: str) -> None:
    """Print the line at once."""
    print(line, flush=True)


async def soak(minutes: float, kills: int, seed: int, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Run the soak. Returns the broken promises and the figures. Raises PartFailed if a part does not become ready again."""
    service, comparison = SoakedService(folder), PictureComparison()
    try:
        await service.open()
        say(f"all parts are ready; {USERS} users, {minutes:g} minutes, {kills} kills, seed {seed}")
        users = Users(service.url, seed, USERS)
        watching = asyncio.ensure_future(service.watch())
        using = asyncio.ensure_future(users.run())
        await service.inject(schedule(minutes, kills, seed))
        users.stop()
        await service.wait_until_ready()
        say("all parts are ready again; waiting for the tasks under way")
        began = time.monotonic()
        problems = await _drain(using, service)
        evidence_left = await _gather_evidence(service)
        drained = time.monotonic() - began
        watching.cancel()
        (watched,) = await asyncio.gather(watching, return_exceptions=True)
        if isinstance(watched, Exception):
            raise watched
        await service.close()
        problems += users.ledger.problems + service.problems + broken_promises(evidence_left, users.ledger, comparison)
        return problems, figures(service, users.ledger, evidence_left, comparison, drained)
    finally:
        service.kill_all()


async def _drain(using: "asyncio.Future[None]", service: SoakedService) -> list[str]:
    """Wait until every user is done and the group has committed every record. Returns a problem if users still wait."""
    deadline = time.monotonic() + DRAIN_SECONDS
    await asyncio.wait((using,), timeout=DRAIN_SECONDS)
    if not using.done():
        using.cancel()
        return [f"some users still wait {DRAIN_SECONDS:g} s after all parts were ready again"]
    using.result()
    while time.monotonic() < deadline:
        try:
            if not any((await asyncio.to_thread(evidence.behind, service.settings)).values()):
                break
        except KafkaException:
            pass
        await asyncio.sleep(0.5)
    return []


async def _gather_evidence(service: SoakedService) -> Evidence:
    log = await asyncio.to_thread(evidence.read_log, service.settings)
    outcomes, stored = await asyncio.to_thread(evidence.read_store, service.settings)
    answers = await evidence.ask_api(service.url, log.tasks.keys())
    return Evidence(log, outcomes, stored, answers, await service.busy())


def main() -> int:
    """Run a soak from the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.proofs.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # then no part is left running either
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    say(f"seed {arguments.seed}; logs and data are in {folder}")
    problems, counts = asyncio.run(soak(arguments.minutes, arguments.kills, arguments.seed, folder))
    say(table(counts))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"broken": Counter(problems), **counts}, indent=2) + "\n")
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
