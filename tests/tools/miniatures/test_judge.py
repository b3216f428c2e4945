"""The judge is right about pictures whose content is known."""

import pytest
import torch
from PIL import Image

from tools.miniatures.train.judge import WORDS, examples, look, look_all
from tools.miniatures.train.pictures import random_scenes, render


@pytest.fixture(scope="module")
def agreement() -> dict[str, float]:
    pictures, truth = examples(1500, 424_242, styled=False)
    seen = look_all(pictures)
    return {
        part: sum(getattr(s, part) == WORDS[part][int(t)] for s, t in zip(seen, truth[part], strict=True)) / 1500
        for part in truth
    }


@pytest.mark.parametrize("part", ["shape", "colour", "background", "size", "place", "outline", "night"])
def test_the_judge_reads_synthesized_pictures_at_least_99_times_in_100(agreement: dict[str, float], part: str) -> None:
    assert agreement[part] >= 0.99


def test_the_judge_recognizes_outlines_and_nights() -> None:
    pictures, truth = examples(800, 434_343)
    seen = look_all(pictures)
    for part in ("outline", "night"):
        assert sum(getattr(s, part) == bool(t) for s, t in zip(seen, truth[part], strict=True)) >= 0.99 * 800


def test_blur_and_noise_do_not_mislead_it() -> None:
    pictures, truth = examples(500, 444_444, styled=False)
    soft = torch.nn.functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    seen = look_all(soft + 0.04 * torch.randn(soft.shape, generator=torch.Generator().manual_seed(0)))
    assert sum(s.shape == WORDS["shape"][int(t)] for s, t in zip(seen, truth["shape"], strict=True)) >= 0.97 * 500


def test_the_judge_accepts_ordinary_pictures_of_any_size() -> None:
    picture = render(random_scenes(1, 9))[0]
    pixels = ((picture + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels)
    assert look(image) == look_all(picture[None])[0]
    larger = look(image.resize((512, 512), Image.Resampling.BICUBIC))
    assert (larger.shape, larger.colour, larger.background) == (
        look(image).shape,
        look(image).colour,
        look(image).background,
    )
