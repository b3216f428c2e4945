"""What a model can do is known before its first runner runs, and a runner's own word counts more."""

import json
import sys
from io import StringIO
from pathlib import Path

import pytest

from adapters.clock import ManualClock
from adapters.memory_log import MemoryBroker, MemoryLog
from functions.consume.publish_models import main, publish, published_models, read_descriptions
from tasks.capabilities import ServedModel
from tests.support.world import LANES, card

IMAGE = 64 * 64
DESCRIBED = card(runners=0, seconds_per_megapixel_step=0.0, pixel_budget=IMAGE, version="folder 1")


def log() -> MemoryLog:
    return MemoryLog(MemoryBroker(LANES, ManualClock()))


async def published_after(*cards: ServedModel, described: ServedModel = DESCRIBED) -> ServedModel:
    """What is published about sd-mini after these cards and then this description."""
    task_log = log()
    for each in cards:
        await task_log.append_card(each)
    await publish(task_log, [described])
    return (await published_models(task_log))["sd-mini"]


async def test_a_model_is_published_without_runners_and_with_what_any_runner_can_draw():
    model = await published_after()
    assert (model.runners, model.pixel_budget, model.max_pixels) == (0, IMAGE, IMAGE)


async def test_a_model_that_runners_serve_is_left_alone():
    served = card(runners=2, version="folder 0")
    assert await published_after(served) == served
    task_log = log()
    await task_log.append_card(served)
    assert await publish(task_log, [DESCRIBED, card("flux-mini", runners=0)]) == {"sd-mini": False, "flux-mini": True}


async def test_what_runners_have_measured_is_kept_while_the_folder_is_the_same():
    measured = card(runners=0, pixel_budget=8 * IMAGE, seconds_per_megapixel_step=3.0, version="folder 1")
    same = await published_after(measured)
    assert (same.pixel_budget, same.max_pixels) == (8 * IMAGE, 8 * IMAGE)
    other = await published_after(measured, described=DESCRIBED.model_copy(update={"version": "folder 2"}))
    assert (other.pixel_budget, other.max_pixels) == (IMAGE, IMAGE)
    assert same.seconds_per_megapixel_step == other.seconds_per_megapixel_step == 3.0


def test_descriptions_are_read_from_files_and_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.json").write_text(DESCRIBED.model_dump_json())
    flux = card("flux-mini", runners=0)
    monkeypatch.setattr(sys, "stdin", StringIO(flux.model_dump_json() + "\n"))
    assert read_descriptions([str(tmp_path / "model.json"), "-"]) == [DESCRIBED, flux]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot be read"),
        ("", "is not what `python -m runners.describe` prints: the file: "),
        (json.dumps({"model": "x"}), "prints: family: Field required"),
    ],
)
def test_a_file_that_describes_no_model_ends_with_a_sentence(tmp_path: Path, text: str | None, reason: str) -> None:
    file = tmp_path / "model.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit, match=reason) as ended:
        main([str(file)])
    assert str(ended.value).startswith(str(file))
