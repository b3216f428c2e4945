"""A seeded share of the hostile input that `python -m tests.proofs.hostile.fuzz` sends by the thousand."""

import json
import logging
from collections.abc import Iterator
from math import nan

import pytest

from tasks.capabilities import ServedModel
from tests.proofs.hostile import fuzz, fuzz_openapi
from tests.support.world import card

SHARE = {"records": 150, "news": 100, "requests": 150, "routes": 150}


@pytest.fixture(autouse=True)
def _few_words() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_whatever_comes_is_answered_buried_or_ended_and_the_next_task_is_done(kind: str) -> None:
    seen = fuzz.run(kind, SHARE[kind])
    assert seen


HUGE = 2**70
NEWS = {
    "an attempt no view can hold": (b'{"kind":"started","task_id":"a","at":1,"attempt":%d,"owner":"o"}' % HUGE, b""),
    "a step no view can hold": (
        b'{"kind":"progress","task_id":"a","at":1,"attempt":1,"owner":"o","step":%d,"steps":1}' % HUGE, b""
    ),
    "a delay without end": (
        b'{"kind":"released","task_id":"a","at":1,"attempt":1,"owner":"o","delay":Infinity}', b""
    ),
    "a card whose sizes are multiples of nothing": (b"", card("other").model_copy(update={"size_multiple": 0})),
    "a card whose speed is no number": (b"", card("other").model_copy(update={"seconds_per_megapixel_step": nan})),
}  # fmt: skip


@pytest.mark.parametrize("what", NEWS)
async def test_news_with_numbers_that_cannot_be_stops_nobody(what: str) -> None:
    event, told = NEWS[what]
    service = fuzz.Service()
    await service.open()
    body = json.dumps(told.model_dump()).encode() if isinstance(told, ServedModel) else told
    await fuzz.put_news(service, event, body)
    await service.works()
    await service.close()


@pytest.mark.timeout(600)
def test_every_answer_is_one_the_openapi_document_tells_of() -> None:
    seen = fuzz_openapi.run(200, fuzz.SEED)
    assert {"200", "202", "404", "422"} <= seen.keys()
