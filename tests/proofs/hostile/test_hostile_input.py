"""A small seeded sample of the hostile input that `python -m tests.proofs.hostile.fuzz` sends by the thousand."""

import json
import logging
from collections.abc import Iterator
from math import nan

import pytest

from tasks.capabilities import ServedModel
from tests.proofs.hostile import fuzz, fuzz_openapi
from tests.support.world import card as sample_card

EXAMPLES = {"records": 150, "news": 100, "requests": 150, "routes": 150}


@pytest.fixture(autouse=True)
def _only_errors_are_logged() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_any_input_is_answered_or_dead_lettered_or_ends_and_the_next_task_completes(kind: str) -> None:
    counts = fuzz.run(kind, EXAMPLES[kind])
    assert counts


HUGE = 2**70
IMPOSSIBLE_NUMBERS = {
    "an attempt too large for the view": (b'{"kind":"started","task_id":"a","at":1,"attempt":%d,"owner":"o"}' % HUGE, b""),
    "a step too large for the view": (
        b'{"kind":"progress","task_id":"a","at":1,"attempt":1,"owner":"o","step":%d,"steps":1}' % HUGE, b""
    ),
    "an infinite delay": (
        b'{"kind":"released","task_id":"a","at":1,"attempt":1,"owner":"o","delay":Infinity}', b""
    ),
    "a card whose size multiple is 0": (b"", sample_card("other").model_copy(update={"size_multiple": 0})),
    "a card whose speed is NaN": (b"", sample_card("other").model_copy(update={"seconds_per_megapixel_step": nan})),
}  # fmt: skip


@pytest.mark.parametrize("what", IMPOSSIBLE_NUMBERS)
async def test_an_event_or_card_with_an_impossible_number_stops_nothing(what: str) -> None:
    event, card = IMPOSSIBLE_NUMBERS[what]
    service = fuzz.Service()
    await service.open()
    body = json.dumps(card.model_dump()).encode() if isinstance(card, ServedModel) else card
    await fuzz.put_event_and_card(service, event, body)
    await service.works()
    await service.close()


@pytest.mark.timeout(600)
def test_every_answer_is_documented_in_the_openapi_document() -> None:
    counts = fuzz_openapi.run(200, fuzz.SEED)
    assert {"200", "202", "404", "422"} <= counts.keys()
