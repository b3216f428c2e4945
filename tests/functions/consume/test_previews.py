"""A consumer hands the previews of a running attempt on: few, small, and never at the task's expense."""

import itertools

from adapters.memory_log import PREVIEWS
from tasks.preview import PREVIEW_BYTES, Preview
from tasks.runner_api import Preview as PreviewFrame
from tasks.task import Task
from tests.support.world import World, world


def previews(w: World, task: Task) -> list[Preview]:
    records = [record for partition in w.broker.topics[PREVIEWS].values() for record in partition]
    return [Preview.model_validate_json(record.value) for record in records if record.key == task.task_id]


async def test_the_previews_of_a_task_are_at_most_one_a_second():
    async with world() as w:
        await w.start()
        task = await w.submit(previews=True, image_params={"steps": 35})
        for _ in range(35):
            await w.clock.advance(0.1)
        assert w.status(task) == "completed"
        first, *later = previews(w, task)
        assert len(later) == 3
        assert all(after.at - before.at >= 1 for before, after in itertools.pairwise((first, *later)))
        assert (first.attempt, first.steps, first.content_type) == (1, 35, "image/jpeg")


async def test_a_task_that_asked_for_none_has_no_preview():
    async with world() as w:
        await w.start()
        task = await w.submit()
        await w.clock.advance(2)
        assert w.status(task) == "completed"
        assert previews(w, task) == []


async def test_a_preview_that_is_too_large_is_dropped_and_the_task_completes():
    async with world() as w:
        w.runner.preview = lambda step: PreviewFrame(step=step, payload=b"x" * (PREVIEW_BYTES + 1))
        await w.start()
        task = await w.submit(previews=True)
        await w.clock.advance(2)
        assert w.status(task) == "completed"
        assert previews(w, task) == []
