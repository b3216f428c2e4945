"""The images of the real models show what their prompts name, according to the judge model."""

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.stack import Api
from tools.miniatures.train.judge import look

MODELS = ("sd-mini", "flux-mini")


def drawn(api: Api, model: str, prompt: str, seed: int = 7, **more: Any) -> Image.Image:
    """Submit one request, wait for it and return its image."""
    body = {"model_name": model, "prompt": prompt, "image_params": {"seed": seed}, **more}
    answer = api.post(body, Prefer="wait=60", Accept="image/*")
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content)).convert("RGB")


def together(api: Api, *requests: dict[str, Any]) -> list[Image.Image]:
    """The images of requests that are sent at the same moment, so that they share the runner's steps."""
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda request: drawn(api, **request), requests))


def difference(image: Image.Image, other: Image.Image) -> float:
    """The mean difference of two images, of 255."""
    return float(np.abs(np.asarray(image, dtype=float) - np.asarray(other, dtype=float)).mean())


@pytest.mark.parametrize("model", MODELS)
def test_a_red_circle_on_blue_is_drawn(api: Api, model: str):
    scene = look(drawn(api, model, "a large red circle on a blue background"))
    assert (scene.colour, scene.shape, scene.background) == ("red", "circle", "blue")


@pytest.mark.parametrize("model", MODELS)
def test_tasks_that_share_a_batch_get_each_their_own_picture(api: Api, model: str):
    scenes = [("green", "square", "white"), ("yellow", "cross", "purple"), ("white", "triangle", "red")]
    pictures = together(
        api,
        *({"model": model, "prompt": f"a large {c} {s} at the center on a {b} background"} for c, s, b in scenes),
    )
    assert [(s.colour, s.shape, s.background) for s in map(look, pictures)] == scenes


@pytest.mark.parametrize("model", MODELS)
def test_a_lora_changes_its_own_row_and_not_the_one_beside_it(api: Api, model: str):
    prompt = "a large yellow square on a white background"
    alone = drawn(api, model, prompt)
    plain, night = together(
        api,
        {"model": model, "prompt": prompt},
        {"model": model, "prompt": prompt, "loras": [{"name": "night", "weight": 1.0}]},
    )
    assert difference(plain, alone) < 1
    assert (look(plain).night, look(night).night) == (False, True)


@pytest.mark.parametrize("model", MODELS)
def test_a_negative_prompt_avoids_what_it_names(api: Api, model: str):
    prompt = "a large circle on a white background"
    named = look(drawn(api, model, prompt)).colour
    assert look(drawn(api, model, prompt, negative_prompt=f"a {named} shape")).colour != named


@pytest.mark.parametrize("model", MODELS)
def test_a_seed_gives_the_same_picture_again_and_another_seed_another(api: Api, model: str):
    prompt = "a star on a black background"
    first = drawn(api, model, prompt, seed=1)
    assert difference(drawn(api, model, prompt, seed=1), first) < 1
    assert difference(drawn(api, model, prompt, seed=2), first) > 3
