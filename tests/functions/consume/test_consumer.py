"""The life of a consumer: it runs until it is stopped or a part fails, and shuts down in one order. On twins."""

import asyncio

import pytest

from adapters.clock import settle
from tasks.errors import OutOfMemory
from tasks.events import Released, Started
from tests.support.world import World, card, world

LONG = {"steps": 100}


def retries(w: World, code: str) -> float:
    """How many attempts of the first consumer the metric counts that ended with this code."""
    labels = {"model": "sd-mini", "code": code}
    return w.consumers[0].consumer.metrics.registry.get_sample_value("ai_image_gen_retries_total", labels) or 0.0


async def test_a_consumer_ends_its_attempts_before_it_closes_the_log(monkeypatch: pytest.MonkeyPatch):
    async with world() as w:
        running = await w.start()
        steps: list[str] = []
        log, consumer = running.log, running.consumer
        (member,) = log.members

        def noted(part: object, name: str) -> None:
            real = getattr(part, name)

            def call(*args: object, **kwargs: object) -> object:
                steps.append(name)
                return real(*args, **kwargs)

            monkeypatch.setattr(part, name, call)

        for part, name in (
            (consumer.dispatcher, "start_no_more"),
            (consumer.attempts, "orphan"),
            (consumer.handler, "release_on_exit"),
            (member, "leave"),
            (log, "close"),
        ):
            noted(part, name)
        task = await w.submit(image_params=LONG)
        stopping = asyncio.ensure_future(running.stop(grace=1))
        await w.clock.advance(1.1)
        await stopping
        order = list(dict.fromkeys(steps))
        assert order == ["start_no_more", "leave", "orphan", "release_on_exit", "close"]
        assert [event.code for event in w.events(task) if isinstance(event, Released)] == ["shutting_down"]


async def test_a_consumer_that_is_stopped_before_it_runs_starts_nothing():
    async with world() as w:
        running = await w.start()
        await running.kill()
        await w.submit()
        running.consumer.stop_requested.clear()
        running.consumer.stop()
        await running.consumer.run()
        assert not w.runner.ran


async def test_a_part_that_fails_ends_the_consumer_in_order_and_is_raised(monkeypatch: pytest.MonkeyPatch):
    async with world() as w:
        running = await w.start()

        async def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(running.consumer.handler, "dead_letter", broken)
        task = await w.submit()
        await w.raw(b"nonsense")
        await w.clock.advance(5)
        with pytest.raises(ZeroDivisionError):
            await running.work
        assert w.status(task) == "completed", "the running attempt had its grace"
        assert not w.watermark_at_end(), "the record is read again after a restart"
        assert not any(member.assigned for member in running.log.members)


async def test_a_takeover_is_counted_and_released_under_its_own_code():
    async with world() as w:
        await w.start()
        task = await w.submit(image_params=LONG)
        taken = Started(task_id=task.task_id, at=0.0, attempt=2, owner="another")
        await w.client.append_event(taken, w.broker.partition_of(task.model_name))
        await settle()
        assert [event.code for event in w.events(task) if isinstance(event, Released)] == ["taken_over"]
        assert (retries(w, "taken_over"), retries(w, "runner_busy")) == (1, 0)


async def test_an_unreachable_runner_is_counted_under_its_own_code():
    async with world() as w:
        await w.start()
        w.runner.away = True
        await w.submit()
        await w.clock.advance(1)
        assert (retries(w, "runner_unavailable"), retries(w, "runner_loading"), retries(w, "runner_lost")) == (1, 0, 0)


async def test_log_lines_name_the_attempt_by_its_number_and_count_the_tries(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    async with world() as w:
        await w.start()
        w.runner.fail_next = [OutOfMemory()]
        await w.submit()
        await w.clock.advance(10)
    fields = {
        (record.message, name): getattr(record, name)
        for record in caplog.records
        for name in ("attempt", "tries", "code")
        if hasattr(record, name)
    }
    assert fields["requeued", "code"] == "out_of_memory"
    assert fields["generated", "attempt"] == 2
    assert fields["ended", "tries"] == 2
    assert ("ended", "attempt") not in fields


async def test_a_consumer_is_ready_once_a_model_is_known_also_without_runners():
    async with world() as w:
        w.runners.clear()
        unknown = await w.start()
        assert [each.partition(":")[0] for each in unknown.consumer.missing()] == ["a model"]
        await w.client.append_card(card(runners=0))
        await settle()
        assert unknown.consumer.missing() == []
        await unknown.stop()
        assert unknown.consumer.missing() == ["this consumer, which is about to end"]


async def test_a_consumer_is_not_ready_before_it_has_asked_its_runners():
    async with world() as w:
        await w.client.append_card(card())
        running = await w.start()
        running.consumer.pool.looked = False
        assert [each.partition(":")[0] for each in running.consumer.missing()] == ["a model"]
        await running.consumer.pool.look()
        assert running.consumer.missing() == []
