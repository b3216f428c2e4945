"""How a task ends, whatever happens to the parts of the service. On twins, with a clock the tests turn."""

import asyncio
import json
import uuid

import pytest

from tasks.capabilities import RunnerDescription
from tasks.errors import GenerationFailed, OutOfMemory
from tasks.retry import MAX_TRIES
from tests.support.world import card, world

LONG = {"steps": 100}


async def test_a_task_ends_completed_with_its_picture_stored_and_the_offset_moved():
    async with world() as w:
        await w.start()
        task = await w.submit()
        await w.clock.advance(2)
        outcome = w.outcome(task)
        assert outcome is not None
        assert (outcome.status, outcome.tries, len(outcome.images)) == ("completed", 1, 1)
        assert outcome.timings.generating == pytest.approx(1.0)
        assert w.watermark_at_end()


async def test_tasks_submitted_before_the_consumer_starts_are_done():
    async with world() as w:
        tasks = [await w.submit() for _ in range(5)]
        await w.start()
        await w.clock.advance(10)
        assert [w.status(task) for task in tasks] == ["completed"] * 5
        assert w.watermark_at_end()


async def test_a_runner_is_filled_to_its_pixel_budget_and_no_further():
    async with world() as w:
        await w.start()
        for _ in range(6):
            await w.submit()
        assert len(w.runner.running) == 2


async def test_the_next_task_is_sent_while_the_last_step_of_the_one_before_runs():
    async with world() as w:
        await w.start()
        for _ in range(3):
            await w.submit()
        await w.clock.advance(0.9)
        assert len(w.runner.ran) == 3


async def test_a_cancel_of_a_queued_task_ends_it_at_once_and_it_never_runs():
    async with world() as w:
        await w.start()
        tasks = [await w.submit(image_params=LONG) for _ in range(3)]
        await w.cancel(tasks[2])
        assert w.status(tasks[2]) == "canceled"
        await w.clock.advance(30)
        assert w.started(tasks[2]) == []


async def test_a_cancel_drops_a_running_task_at_the_runner_and_leaves_its_neighbour_alone():
    async with world() as w:
        await w.start()
        canceled, neighbour = [await w.submit(image_params=LONG) for _ in range(2)]
        await w.clock.advance(3)
        await w.cancel(canceled)
        assert w.status(canceled) == "canceled"
        assert w.runner.dropped == [canceled.task_id]
        await w.clock.advance(10)
        assert w.status(neighbour) == "completed"


async def test_a_task_not_started_in_time_expires():
    async with world() as w:
        await w.start()
        for _ in range(2):
            await w.submit(image_params=LONG)
        late = await w.submit(start_within=5)
        await w.clock.advance(5.1)
        assert w.status(late) == "expired"
        assert w.outcome(late).error.code == "started_too_late"


async def test_a_task_that_runs_too_long_is_stopped():
    async with world() as w:
        await w.start()
        task = await w.submit(image_params=LONG, max_runtime=2)
        await w.clock.advance(2.1)
        assert (w.status(task), w.outcome(task).error.code) == ("failed", "ran_too_long")
        assert w.runner.dropped == [task.task_id]


async def test_a_lost_runner_costs_one_attempt():
    async with world() as w:
        await w.start()
        task = await w.submit()
        await w.clock.advance(0.35)
        w.runner.away = True
        await w.clock.advance(1)
        w.runner.away = False
        await w.clock.advance(10)
        assert w.status(task) == "completed"
        assert w.started(task) == [1, 2]


async def test_a_task_that_always_fails_ends_after_the_last_try_with_code_and_sentence():
    async with world() as w:
        await w.start()
        w.runner.fail_next = [GenerationFailed("no") for _ in range(9)]
        task = await w.submit()
        await w.clock.advance(30)
        assert w.status(task) == "failed"
        assert w.started(task) == list(range(1, MAX_TRIES + 1))
        assert w.outcome(task).error.code == "generation_failed"


async def test_out_of_memory_is_tried_again():
    async with world() as w:
        await w.start()
        w.runner.fail_next = [OutOfMemory()]
        task = await w.submit()
        await w.clock.advance(10)
        assert (w.status(task), w.started(task)) == ("completed", [1, 2])


async def test_a_busy_runner_costs_no_try():
    async with world() as w:
        runner = w.add_runner(pixel_budget=64 * 64)

        async def roomy() -> RunnerDescription:
            return RunnerDescription.of_served(card(pixel_budget=9 * 64 * 64))

        # The description promises more room than there is, as when another consumer's tasks fill the runner.
        runner.describe = roomy  # type: ignore[method-assign]
        await w.start()
        blocker = [await w.submit(image_params=LONG) for _ in range(2)]
        task = await w.submit()
        await w.clock.advance(5)
        assert w.status(task) is None
        await w.clock.advance(20)
        assert [w.status(one) for one in (*blocker, task)] == ["completed"] * 3


async def test_an_unreadable_record_goes_to_the_dead_letters_and_the_queue_goes_on():
    async with world() as w:
        await w.start()
        await w.raw(b"nonsense")
        task = await w.submit()
        await w.clock.advance(2)
        assert w.status(task) == "completed"
        letters = w.broker.topics["dead_letter"][0]
        assert [letter.value for letter in letters] == [b"nonsense"]
        assert letters[0].headers["kafka_dlt-exception-message"]
        assert w.watermark_at_end()


async def test_a_record_that_cannot_be_done_fails_with_the_code_of_a_refused_submit():
    async with world() as w:
        await w.start()
        body = {"task_id": uuid.uuid4().hex, "model_name": "sd-mini", "prompt": "x", "loras": ["nope"]}
        await w.raw(json.dumps(body).encode())
        stored = json.loads(w.store.objects[f"tasks/{body['task_id']}/outcome.json"])
        assert (stored["status"], stored["error"]["code"]) == ("failed", "unknown_lora")
        assert w.watermark_at_end()


async def test_a_task_written_twice_runs_once():
    async with world() as w:
        await w.start()
        task = await w.submit()
        await w.client.append_task(task)
        await w.clock.advance(3)
        await w.client.append_task(task)
        await w.clock.advance(3)
        assert (w.status(task), w.started(task), len(w.runner.ran)) == ("completed", [1], 1)
        assert w.watermark_at_end()


async def test_a_killed_consumers_task_is_taken_over_once_its_lease_has_lapsed():
    async with world() as w:
        first = await w.start()
        task = await w.submit(image_params=LONG)
        await w.clock.advance(1)
        await first.kill()
        await w.start()
        await w.clock.advance(9)
        assert w.started(task) == [1]
        await w.clock.advance(1.1)
        assert w.started(task) == [1, 2]
        await w.clock.advance(11)
        assert w.status(task) == "completed"
        assert w.watermark_at_end()


async def test_a_finished_task_is_not_run_again_though_its_outcome_was_never_announced():
    async with world() as w:
        first = await w.start()
        task = await w.submit()
        await w.clock.advance(0.5)
        w.broker.down = True
        await w.clock.advance(2)
        assert f"tasks/{task.task_id}/outcome.json" in w.store.objects
        await first.kill()
        w.broker.down = False
        await w.start()
        await w.clock.advance(15)
        assert (w.status(task), len(w.runner.ran)) == ("completed", 1)


async def test_a_consumer_that_joins_mid_task_makes_nothing_run_twice():
    async with world() as w:
        await w.start()
        running = [await w.submit(image_params=LONG) for _ in range(2)]
        queued = [await w.submit() for _ in range(4)]
        await w.clock.advance(1)
        for _ in range(3):
            await w.start()
        await w.clock.advance(40)
        assert [w.status(task) for task in running + queued] == ["completed"] * 6
        assert [w.outcome(task).tries for task in running + queued] == [1] * 6
        assert len(w.runner.ran) == 6
        assert w.watermark_at_end()


async def test_a_consumer_that_stops_lets_its_tasks_end_and_leaves_the_queued_ones():
    async with world() as w:
        first = await w.start()
        running = await w.submit(image_params={"steps": 30})
        queued = [await w.submit() for _ in range(3)]
        stopping = asyncio.ensure_future(first.stop(grace=30))
        await w.clock.advance(0.1)
        await w.start()
        await w.clock.advance(20)
        await stopping
        assert [w.status(task) for task in (running, *queued)] == ["completed"] * 4
        assert w.started(running) == [1]


async def test_a_consumer_whose_grace_is_over_releases_its_task_at_once():
    async with world() as w:
        first = await w.start()
        task = await w.submit(image_params=LONG)
        stopping = asyncio.ensure_future(first.stop(grace=1))
        await w.clock.advance(1.1)
        await stopping
        await w.start()
        await w.clock.advance(0.1)
        assert w.started(task) == [1, 2]
        await w.clock.advance(12)
        assert w.outcome(task).tries == 1


async def test_the_store_away_loses_nothing_and_stops_the_handing_out_at_a_bound():
    async with world() as w:
        w.settings = w.settings.model_copy(update={"max_unstored": 3})
        await w.start()
        w.store.down = True
        tasks = [await w.submit() for _ in range(12)]
        await w.clock.advance(60)
        assert len(w.runner.ran) <= 3 + 2 + 2
        w.store.down = False
        await w.clock.advance(30)
        assert [w.status(task) for task in tasks] == ["completed"] * 12
        assert [w.started(task) for task in tasks] == [[1]] * 12


async def test_the_queue_away_loses_nothing():
    async with world() as w:
        await w.start()
        tasks = [await w.submit() for _ in range(4)]
        w.broker.down = True
        await w.clock.advance(60)
        w.broker.down = False
        w.broker.wake()
        await w.clock.advance(30)
        assert [w.status(task) for task in tasks] == ["completed"] * 4


async def test_one_users_thousand_tasks_delay_anothers_first_by_no_more_than_what_runs():
    async with world() as w:
        await w.start()
        flood = [await w.submit(user_id="flood") for _ in range(200)]
        await w.clock.advance(5)
        first = await w.submit(user_id="other")
        await w.clock.advance(1.1)
        assert w.started(first) == [1]
        assert sum(w.status(task) is None for task in flood) > 150


async def test_a_zombie_that_wakes_after_its_lease_does_no_harm():
    async with world() as w:
        zombie = await w.start()
        task = await w.submit(image_params=LONG)
        await w.clock.advance(1)
        zombie.log.mute()
        zombie.log.leave()
        await w.start()
        await w.clock.advance(30)
        outcome = w.outcome(task)
        assert (outcome.status, outcome.tries) == ("completed", 1)
        assert w.watermark_at_end()


@pytest.mark.parametrize("lane", ["online_task", "batch_task"])
async def test_every_lane_is_served(lane: str):
    async with world() as w:
        await w.start()
        task = await w.submit(topic=lane)
        await w.clock.advance(2)
        assert w.status(task) == "completed"
