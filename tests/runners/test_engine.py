"""The engine draws the images of the diffusers pipeline, whichever rows share a forward."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from runners.families.flux import TRUE_CFG_SCALE
from runners.families.schedulers import SAMPLERS, make
from tasks.errors import RunnerBusy
from tasks.runner_api import Error, RunRequest, Step
from tests.runners.conftest import Bench, Submitted


def expected(bench: Bench, request: RunRequest) -> np.ndarray[Any, Any]:
    """The image that the diffusers pipeline draws."""
    pipe, options = bench.pipe, {}
    if bench.name == "sd-mini":
        own = pipe.scheduler
        pipe.scheduler = make(request.scheduler, bench.model.family.pipe.scheduler)
        options = {"negative_prompt": request.negative_prompt or None}
    else:
        own = pipe.scheduler
        options = {"max_sequence_length": bench.model.folder.defaults.max_sequence_length or 512}
        if request.negative_prompt:
            scale = bench.model.folder.defaults.true_cfg_scale or TRUE_CFG_SCALE
            options |= {
                "negative_prompt": request.negative_prompt,
                "true_cfg_scale": scale,
            }
    for lora in request.loras:
        pipe.load_lora_weights(
            str(bench.model.folder.path / "loras"),
            weight_name=f"{lora.name}.safetensors",
            adapter_name=lora.name,
        )
    if request.loras:
        pipe.set_adapters(
            [lora.name for lora in request.loras],
            [lora.weight for lora in request.loras],
        )
    image = pipe(
        request.prompt,
        width=request.width,
        height=request.height,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        **options,
    ).images[0]
    pipe.scheduler = own
    if request.loras:
        pipe.unload_lora_weights()
    return np.asarray(image)


def assert_same(bench: Bench, ran: Submitted, request: RunRequest) -> np.ndarray[Any, Any]:
    """Assert that at most 0.1 % of the values differ, by at most 1/255."""
    got = np.asarray(Image.open(BytesIO(ran.picture())))
    difference = np.abs(got.astype(int) - expected(bench, request).astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.001
    return got


def test_rows_that_join_and_leave_midway_get_the_pipelines_pictures(
    bench: Bench,
) -> None:
    first = bench.request(steps=5, seed=1)
    second = bench.request(steps=8, seed=2, prompt="a blue square", guidance_scale=3.0)
    third = bench.request(steps=6, seed=3, prompt="two green stars")
    later: list[Submitted] = []
    bench.rows.clear()
    ran = bench.submit(
        first,
        {
            2: lambda: later.append(bench.submit(second)),
            3: lambda: later.append(bench.submit(third)),
        },
    )
    assert_same(bench, ran, first)
    assert_same(bench, later[0], second)
    assert_same(bench, later[1], third)
    assert max(bench.rows) == 3


def test_a_cancel_midway_leaves_the_neighbours_picture_and_takes_no_further_step(
    bench: Bench,
) -> None:
    stays, goes = bench.request(seed=4), bench.request(seed=5, steps=30)
    gone: list[Submitted] = []
    ran = bench.submit(
        stays,
        {1: lambda: gone.append(bench.submit(goes)), 4: lambda: gone[0].job.cancel()},
    )
    assert_same(bench, ran, stays)
    steps = [frame.step for frame in list(gone[0].queue.queue) if isinstance(frame, Step)]
    assert steps
    assert max(steps) <= 4
    assert bench.engine.load() == (0, 0)


def test_lora_rows_and_plain_rows_never_touch_each_other(bench: Bench) -> None:
    plain = bench.request(seed=6)
    outlined = bench.request(seed=6, loras=[{"name": "outline", "weight": 0.8}])
    both = bench.request(seed=6, loras=[{"name": "outline"}, {"name": "night", "weight": 0.5}])
    ran = [bench.submit(request) for request in (plain, outlined, both)]
    pictures = [
        assert_same(bench, submitted, request) for submitted, request in zip(ran, (plain, outlined, both), strict=True)
    ]
    assert (pictures[0] != pictures[1]).any()
    assert (pictures[1] != pictures[2]).any()


def test_a_negative_prompt_beside_a_plain_one_gives_the_pipelines_picture(
    bench: Bench,
) -> None:
    plain, negative = (
        bench.request(seed=7),
        bench.request(seed=7, negative_prompt="blurry"),
    )
    ran = [bench.submit(plain), bench.submit(negative)]
    first, second = (
        assert_same(bench, ran[0], plain),
        assert_same(bench, ran[1], negative),
    )
    assert (first != second).any()


def test_sizes_that_pack_alike_are_not_mixed(bench: Bench) -> None:
    wide, tall = (
        bench.request(width=128, height=64),
        bench.request(width=64, height=128),
    )
    ran = [bench.submit(wide), bench.submit(tall)]
    assert_same(bench, ran[0], wide)
    assert_same(bench, ran[1], tall)


@pytest.mark.parametrize("scheduler", sorted(SAMPLERS))
def test_each_scheduler_gives_the_pipelines_picture_beside_another(bench: Bench, scheduler: str) -> None:
    if bench.name != "sd-mini":
        pytest.skip("FLUX has one scheduler")
    tested, other = (
        bench.request(scheduler=scheduler, seed=8),
        bench.request(scheduler="ddim", seed=9, steps=4),
    )
    ran = [bench.submit(tested), bench.submit(other)]
    assert_same(bench, ran[0], tested)
    assert_same(bench, ran[1], other)


def test_a_row_of_nan_fails_alone(bench: Bench) -> None:
    good, bad = bench.request(seed=10), bench.request(seed=11)
    broken: list[Submitted] = []

    def poison() -> None:
        broken[0].job.samples[0].latents *= float("nan")

    ran = bench.submit(good, {1: lambda: broken.append(bench.submit(bad)), 4: poison})
    assert_same(bench, ran, good)
    frames = broken[0].frames()
    assert [frame.kind for frame in frames][-2:] == ["error", "end"]
    assert isinstance(frames[-2], Error)
    assert frames[-2].code == "broken_picture"


def test_a_task_beyond_the_budget_and_the_waiting_list_is_refused_at_once(
    bench: Bench,
) -> None:
    big = bench.request(width=128, height=128, steps=3)
    accepted = [bench.submit(big)]
    with pytest.raises(RunnerBusy):  # noqa: PT012 - the number is asserted below
        for _ in range(20):
            accepted.append(bench.submit(big))
    assert len(accepted) <= 9
    assert all(submitted.frames()[-1].images == 1 for submitted in accepted)  # type: ignore[union-attr]
