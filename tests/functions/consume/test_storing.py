"""What is in the store once a task has ended, and how many pictures wait for a store that is unavailable."""

from adapters.memory_store import MemoryStore
from tests.support.world import world


class Clumsy(MemoryStore):
    """A store with a bug: the second picture that it is given raises ValueError."""

    given = 0

    async def put_image(self, key: str, data: bytes, content_type: str) -> None:
        """See ImageStore."""
        self.given += 1
        if self.given == 2:
            raise ValueError("a bug")
        await super().put_image(key, data, content_type)


async def test_an_attempt_whose_pictures_were_stored_only_in_part_leaves_none_of_them() -> None:
    async with world(store=Clumsy()) as w:
        await w.start()
        task = await w.submit(image_params={"num_images": 2})
        await w.clock.advance(60)
        outcome = w.outcome(task)
        assert outcome is not None
        assert (outcome.status, outcome.tries) == ("completed", 2)
        kept = {key for key in w.store.objects if key.endswith(".png")}
        assert kept == {image.key for image in outcome.images}


async def test_the_pictures_that_wait_for_a_store_are_bounded_however_long_it_is_away() -> None:
    async with world() as w:
        w.settings = w.settings.model_copy(update={"max_unstored": 5})
        running = await w.start()
        w.store.down = True
        tasks = [await w.submit(user_id=f"u{n}", image_params={"steps": 2}) for n in range(40)]
        room = 2 * w.cards["sd-mini"].pixel_budget // (64 * 64)
        for _ in range(120):
            await w.clock.advance(1)
            assert sum(len(attempt.images) for attempt in running.consumer.attempts.under_way.values()) <= 5 + room
        made = len(w.runner.ran)
        assert made <= 5 + room
        w.store.down = False
        await w.clock.advance(120)
        assert [w.status(task) for task in tasks] == ["completed"] * 40
        assert len(w.runner.ran) == 40, "something was made twice"


async def test_the_pictures_that_wait_for_the_queue_are_bounded_too() -> None:
    async with world() as w:
        w.settings = w.settings.model_copy(update={"max_unstored": 5})
        await w.start()
        tasks = [await w.submit(user_id=f"u{n}", image_params={"steps": 2}) for n in range(40)]
        done = len(w.runner.ran)
        w.broker.down = True
        await w.clock.advance(120)
        assert len(w.runner.ran) <= done + 5 + 2 * w.cards["sd-mini"].pixel_budget // (64 * 64)
        w.broker.down = False
        w.broker.wake()
        await w.clock.advance(120)
        assert [w.status(task) for task in tasks] == ["completed"] * 40
