"""Write the records of today's code as samples that every later version must read.

    python -m tests.proofs.upgrade.freeze 0.1.0

Run it once for each release. Its samples never change again, so an existing folder is refused.
"""

import asyncio
import contextlib
import json
import sqlite3
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.clock import settle
from adapters.memory_log import EVENTS
from adapters.view_file import VERSION
from config.settings import Settings
from tasks.accept import accept
from tasks.errors import GenerationFailed
from tasks.events import KINDS, CancelRequested, parse_event
from tasks.fingerprint import fingerprint, request_sha256
from tasks.log import Record
from tasks.runner_api import Accepted, End, Image, Preview, Started, Step, encode
from tasks.task import GenerateRequest, Task
from tests.support.world import LANES, World, card

SAMPLES = Path(__file__).parent / "samples"
BY_HAND = {"task_id": "0" * 32, "model_name": "sd-mini", "prompt": "a red circle"}
FULL: Mapping[str, Any] = {
    "model_name": "sd-mini",
    "prompt": "a red circle, ☃ and a line\nbreak",
    "negative_prompt": "blue",
    "image_params": {
        "width": 64,
        "height": 64,
        "steps": 6,
        "guidance_scale": 3.5,
        "seed": 7,
        "num_images": 1,
        "format": "webp",
        "scheduler": "euler",
    },
    "loras": [{"name": "night", "weight": 0.5}],
    "user_id": "somebody",
    "topic": "batch_task",
    "start_within": 600.0,
    "max_runtime": 60.0,
    "previews": True,
}


async def all_samples() -> dict[str, Any]:
    """Every kind of record, event, object and file, by the name of its sample."""
    world = World(settings=Settings(view_path=str(Path(tempfile.mkdtemp()) / "view.db")))
    running = await world.start()
    try:
        full = await _submit_full(world)
        plain = await world.submit()
        await world.clock.advance(20)
        world.runner.fail_next = [GenerationFailed("no") for _ in range(9)]
        failed = await world.submit()
        await world.clock.advance(30)
        world.runner.fail_next = []
        unfinished = [await world.submit(image_params={"steps": 100}) for _ in range(2)]
        canceled, expired = await world.submit(), await world.submit(start_within=5)
        await world.cancel(canceled)
        await world.clock.advance(6)
        stopping = asyncio.ensure_future(running.stop(grace=1))
        await settle()
        await world.clock.advance(2)
        await stopping
    finally:
        await running.kill()
    records = {lane: [r for rs in world.broker.topics[lane].values() for r in rs] for lane in world.broker.lanes}
    tasks = {json.loads(r.value)["task_id"]: json.loads(r.value) for rs in records.values() for r in rs}
    samples: dict[str, Any] = {
        "request": GenerateRequest.model_validate(FULL).model_dump(mode="json"),
        "task": tasks[full.task_id],
        "task_with_defaults": tasks[plain.task_id],
        "task_by_hand": BY_HAND,
        "card": json.loads(card().model_dump_json()),
        "cancel_requested": json.loads(CancelRequested(task_id=canceled.task_id, at=1.0).model_dump_json()),
    }
    events = [record for records in world.broker.topics[EVENTS].values() for record in records]
    for kind in ("started", "progress"):
        samples[kind] = _first(events, kind, full.task_id)
    samples["released_to_try_again"] = _first(events, "released", failed.task_id)
    samples["released_by_a_consumer_that_ends"] = _first(events, "released", unfinished[0].task_id)
    for name, task in {"completed": full, "failed": failed, "canceled": canceled, "expired": expired}.items():
        samples[f"outcome_{name}"] = json.loads(world.store.objects[f"tasks/{task.task_id}/outcome.json"])
    samples["run_request"] = json.loads(world.runner.ran[0].model_dump_json())
    samples["frames"] = _frames()
    samples["commit"] = {"offset": 1, "metadata": str(int(world.clock.now() * 1000))}
    samples["view"] = _view(Path(world.settings.view_path))
    return samples


async def _submit_full(world: World) -> Task:
    """Submit a task that has every field, as a gateway writes it."""
    request = GenerateRequest.model_validate(FULL)
    now = world.clock.now()
    task = accept(request, task_id="f" * 32, models={"sd-mini": card()}, lanes=LANES, created_at=now)
    more = {
        "alias": "stable-diffusion-v1-5",
        "fingerprint": fingerprint(request),
        "request_sha256": request_sha256(request, world.settings.kafka_topic_prefix),
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    task = task.model_copy(update=more)
    await world.client.append_task(task)
    await settle()
    return task


def _first(events: list[Record], kind: str, task_id: str) -> Any:
    for record in events:
        event = parse_event(record.value)
        if event is not None and (event.kind, event.task_id) == (kind, task_id):
            return json.loads(record.value)
    raise LookupError(kind)


def _frames() -> list[str]:
    """What a runner streams, each frame as hex."""
    frames = [
        Accepted(waiting=0),
        Started(queued_seconds=0.001),
        Step(step=1, steps=6),
        Preview(step=1, payload=b"jpeg"),
        Image(index=0, content_type="image/webp", width=64, height=64, seed=7, payload=b"webp"),
        End(seconds_loading=0.01, seconds_generating=0.5, images=1, acceleration={"compile": "off"}),
    ]
    return [encode(frame).hex() for frame in frames]


def _view(path: Path) -> dict[str, Any]:
    """The view file as SQL."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return {"user_version": VERSION, "kinds": sorted(KINDS), "sql": list(db.iterdump())}


def main(version: str) -> None:
    """Write the samples of this version."""
    folder = SAMPLES / version
    folder.mkdir(parents=True)
    for name, sample in asyncio.run(all_samples()).items():
        (folder / f"{name}.json").write_text(json.dumps(sample, indent=1, ensure_ascii=False) + "\n")
    print(f"{folder}: {len(list(folder.iterdir()))} samples")


if __name__ == "__main__":
    main(sys.argv[1])
