"""Which records a restarted consumer writes again and which it must not write again. On twins."""

from adapters.memory_log import DEAD_LETTERS, EVENTS, MODELS
from tasks.capabilities import ServedModel
from tests.support.world import World, world


def published(w: World) -> list[int]:
    """The number of runners of sd-mini in each card of the log, in order."""
    return [ServedModel.model_validate_json(record.value).runners for record in w.broker.topics[MODELS][0]]


async def test_a_model_whose_runners_left_before_the_start_is_published_without_runners() -> None:
    async with world() as w:
        first = await w.start()
        await first.kill()
        w.runner.away = True
        await w.start()
        await w.clock.advance(3)
        assert published(w) == [1, 0]
        w.runner.away = False
        await w.clock.advance(3)
        assert published(w) == [1, 0, 1]


async def test_a_model_whose_runners_are_back_is_published_with_its_runners() -> None:
    async with world() as w:
        for _ in range(3):
            await (await w.start()).kill()
        await w.start()
        await w.clock.advance(3)
        assert published(w)[-1] == 1


async def test_an_unreadable_event_or_card_is_a_dead_letter_once_and_not_at_every_start() -> None:
    async with world() as w:
        first = await w.start()
        partition = w.broker.partition_of("sd-mini")
        w.broker.append(EVENTS, partition, "x", b"no event", {})
        w.broker.append(MODELS, 0, "x", b"no card", {})
        await w.clock.advance(1)
        await first.kill()
        for _ in range(3):
            await (await w.start()).kill()
        await w.start()
        task = await w.submit()
        await w.clock.advance(2)
        assert w.status(task) == "completed"
        assert sorted(letter.value for letter in w.broker.topics[DEAD_LETTERS][0]) == [b"no card", b"no event"]
