"""The pool: which runner gets a task of which model."""

from collections.abc import Sequence

import pytest

from adapters.clock import ManualClock
from adapters.memory_log import MODELS, MemoryBroker, MemoryLog
from adapters.memory_runner import MemoryRunner
from functions.consume.runner_pool import RunnerPool
from tasks.capabilities import ModelStatus, RunnerDescription, ServedModel
from tasks.errors import RunnerUnavailable
from tests.support.world import LANES, card

SD, FLUX = card("sd-mini"), card("flux-mini", pixel_budget=64 * 64)


class SeveralModels(MemoryRunner):
    """A runner of several models, some of which may still be loading."""

    def __init__(self, url: str, clock: ManualClock, *models: ServedModel) -> None:
        super().__init__(models[0], clock, url=url)
        self.models = models
        self.loading_models: set[str] = set()

    async def describe(self) -> RunnerDescription:
        await super().describe()
        description = RunnerDescription.of_served(*self.models)
        for name in self.loading_models:
            description.status.models[name] = ModelStatus(loaded=False)
        return description


class PoolOfTwins:
    """A pool and its runners."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.both = SeveralModels("memory://both", self.clock, SD, FLUX)
        self.runners: dict[str, MemoryRunner] = {self.both.url: self.both}
        self.broker = MemoryBroker(LANES, self.clock)
        self.pool = RunnerPool(self._addresses, self.runners.__getitem__, MemoryLog(self.broker), self.clock)

    async def _addresses(self) -> Sequence[str]:
        return list(self.runners)

    def published(self, model: str) -> list[ServedModel]:
        records = [record for records in self.broker.topics[MODELS].values() for record in records]
        models = [ServedModel.model_validate_json(record.value) for record in records]
        return [one for one in models if one.model == model]


@pytest.fixture
def house() -> PoolOfTwins:
    return PoolOfTwins()


async def test_each_model_of_a_runner_is_served_and_published(house: PoolOfTwins):
    await house.pool.look()
    assert {name: model.runners for name, model in house.pool.models().items()} == {"sd-mini": 1, "flux-mini": 1}
    assert [model.pixel_budget for model in house.published("flux-mini")] == [FLUX.pixel_budget]


async def test_each_model_of_a_runner_has_a_pixel_budget_of_its_own(house: PoolOfTwins):
    await house.pool.look()
    slots = [house.pool.take("sd-mini", 64 * 64) for _ in range(2)]
    assert all(slots)
    assert not house.pool.has_room("sd-mini")
    assert house.pool.take("sd-mini", 64 * 64) is None
    assert house.pool.take("flux-mini", 64 * 64)
    assert sorted(house.pool.busy_shares()) == [("flux-mini", 1.0), ("sd-mini", 1.0)]
    assert slots[0] is not None
    slots[0].release()
    assert house.pool.has_room("sd-mini")


async def test_a_model_that_is_still_loading_gets_no_task(house: PoolOfTwins):
    house.both.loading_models = {"flux-mini"}
    await house.pool.look()
    assert list(house.pool.models()) == ["sd-mini"]
    assert house.pool.take("flux-mini", 1) is None
    assert house.published("flux-mini") == []
    house.both.loading_models = set()
    room: list[str] = []
    house.pool.changed = lambda: room.append("changed")
    await house.pool.look()
    assert room == ["changed"]
    assert house.pool.take("flux-mini", 1)


async def test_the_runner_with_the_least_work_of_any_model_is_chosen(house: PoolOfTwins):
    house.runners["memory://flux"] = MemoryRunner(FLUX, house.clock, url="memory://flux")
    await house.pool.look()
    assert house.pool.models()["flux-mini"].runners == 2
    house.pool.take("sd-mini", 64 * 64)
    slot = house.pool.take("flux-mini", 64 * 64)
    assert slot is not None
    assert slot.runner.url == "memory://flux"


async def test_a_lost_runner_serves_none_of_its_models_until_it_answers(house: PoolOfTwins):
    await house.pool.look()
    slot = house.pool.take("sd-mini", 1)
    assert slot is not None
    slot.lost()
    assert house.pool.take("flux-mini", 1) is None
    assert {model.runners for model in house.pool.models().values()} == {0}
    await house.pool.look()
    assert house.pool.take("flux-mini", 1)


async def test_a_model_that_a_runner_no_longer_serves_is_published_without_runners(
    house: PoolOfTwins, caplog: pytest.LogCaptureFixture
):
    await house.pool.look()
    house.both.models = (SD,)
    await house.pool.look()
    assert house.published("flux-mini")[-1].runners == 0
    assert house.published("sd-mini")[-1].runners == 1
    assert "memory://both of flux-mini is away" in caplog.text


async def test_a_model_that_is_known_is_published_while_its_runners_load_it(house: PoolOfTwins):
    house.pool.learn(FLUX)
    house.both.loading_models = {"flux-mini"}
    await house.pool.look()
    published = house.published("flux-mini")[-1]
    assert (published.runners, published.loading) == (0, 1)
    assert house.pool.take("flux-mini", 1) is None
    house.both.away = True
    await house.pool.look()
    published = house.published("flux-mini")[-1]
    assert (published.runners, published.loading) == (0, 0)
    house.both.away, house.both.loading_models = False, set()
    await house.pool.look()
    published = house.published("flux-mini")[-1]
    assert (published.runners, published.loading) == (1, 0)
    house.both.away = True
    await house.pool.look()
    published = house.published("flux-mini")[-1]
    assert (published.runners, published.loading) == (0, 0)


async def test_of_earlier_records_of_a_model_the_newest_counts(house: PoolOfTwins):
    """A topic that Kafka has not compacted yet holds older records too."""
    for runners in (1, 0):
        house.pool.learn(SD.model_copy(update={"runners": runners}))
    await house.pool.look()
    assert [model.runners for model in house.published("sd-mini")] == [1]


async def test_a_record_without_runners_that_another_consumer_wrote_last_is_corrected(house: PoolOfTwins):
    """The other consumer may have lost its way to the runner, and may never write again."""
    await house.pool.look()
    house.pool.learn(SD.model_copy(update={"runners": 0}))
    for _ in range(3):
        await house.pool.look()
    assert [model.runners for model in house.published("sd-mini")] == [1, 1]


async def test_two_consumers_that_count_different_runners_do_not_correct_each_other(house: PoolOfTwins):
    await house.pool.look()
    house.pool.learn(SD.model_copy(update={"runners": 2}))
    await house.pool.look()
    assert [model.runners for model in house.published("sd-mini")] == [1]


async def test_consumers_of_which_one_sees_no_runner_load_do_not_correct_each_other(house: PoolOfTwins):
    house.pool.learn(SD)
    house.runners.clear()
    await house.pool.look()
    for _ in range(3):
        house.pool.learn(SD.model_copy(update={"runners": 0, "loading": 1}))
        await house.pool.look()
    assert [(model.runners, model.loading) for model in house.published("sd-mini")] == [(0, 0)]


async def test_a_runner_that_refuses_this_consumer_is_named_in_the_log_once(
    house: PoolOfTwins, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if "refuses" in record.getMessage()]

    async def refuse() -> RunnerDescription:
        raise RunnerUnavailable("The runner at memory://both refuses this consumer: no secret.")

    with monkeypatch.context() as patch:
        patch.setattr(house.both, "describe", refuse)
        for _ in range(3):
            await house.pool.look()
        assert house.pool.take("sd-mini", 64 * 64) is None
        assert lines() == ["The runner at memory://both refuses this consumer: no secret."]
    await house.pool.look()
    assert house.pool.take("sd-mini", 64 * 64) is not None
    monkeypatch.setattr(house.both, "describe", refuse)
    await house.pool.look()
    assert len([line for line in lines() if line.startswith("The runner")]) == 2
