"""A third architecture needs one file and one entry of FAMILIES: here this file and `TOY`, and no other change."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from functools import partialmethod
from io import BytesIO
from pathlib import Path
from queue import Queue
from time import monotonic
from typing import Any

import diffusers
import httpx
import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch import Tensor

from config.settings import Settings
from runners.capabilities import describe
from runners.engine import Engine
from runners.families import FAMILIES, FamilySpec, ModelFacts, UnusableModel
from runners.families.family import Inputs
from runners.families.sample import Conditioning, Sample, predict
from runners.loading import Model, load
from runners.model_folder import ModelFolder, inspect
from runners.server import build_app
from tasks.runner_api import FRAMES, JSON, Decoder, End, Frame, Image, Input, Preview, Request, RunRequest, encode

CHANNELS, SCALE, WORDS = 4, 2, 8


class ToyPipeline(diffusers.DiffusionPipeline):  # type: ignore[misc]
    """A minimal diffusers pipeline."""

    def __init__(self, painter: Any, vae: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(painter=painter, vae=vae, scheduler=scheduler)


class Toy:
    """Reads a prompt as the hash of each of its letters' codes, and may start from the bytes of a file."""

    def __init__(self, pipe: Any, facts: ModelFacts) -> None:
        self.pipe = pipe
        self._channels = facts.latent_channels

    def encode(self, inputs: Inputs) -> Conditioning:
        digest = hashlib.sha256(inputs.request.prompt.encode()).digest()[:WORDS]
        return Conditioning({"encoder_hidden_states": torch.tensor([[[byte / 255 for byte in digest]]])})

    def begin(self, inputs: Inputs, conditioning: Conditioning) -> Sample:
        request = inputs.request
        scheduler = type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)
        scheduler.set_timesteps(request.steps)
        shape = (1, self._channels, request.height // SCALE, request.width // SCALE)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(inputs.seed))
        if "start" in inputs.files:
            latents = latents + sum(inputs.files["start"].payload) / 100
        return Sample(request.width, request.height, latents, scheduler.timesteps, scheduler, conditioning)

    def predict(self, samples: Sequence[Sample]) -> list[Tensor]:
        def forward(latents: Tensor, timesteps: Tensor, conditions: dict[str, Tensor]) -> Tensor:
            return self.pipe.painter(latents, timesteps, **conditions, return_dict=False)[0]

        return predict(samples, [sample.latents for sample in samples], forward)

    def decode(self, sample: Sample) -> Picture.Image:
        pixels = self.pipe.vae.decode(sample.latents, return_dict=False)[0][0]
        return Picture.fromarray(((pixels / 2 + 0.5).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy())

    def latents(self, sample: Sample) -> Tensor:
        return sample.latents[0]


TOY = FamilySpec(
    name="toy",
    code="tests.runners.test_toy_family:Toy",
    denoiser="painter",
    gpu_dtype="bfloat16",
    parts={
        "painter": ("diffusers.UNet2DConditionModel",),
        "scheduler": ("diffusers.DDIMScheduler",),
        "vae": ("diffusers.AutoencoderKL",),
    },
    steps=3,
    guidance_scale=1.0,
    max_prompt_length=50,
    latent_rgb=((0.1, 0.2, 0.3),) * CHANNELS,
    negative_prompt=False,
    inputs=("start",),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the folder `toy`."""
    cache = tmp_path_factory.mktemp("model_cache")
    torch.manual_seed(0)
    painter = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=WORDS,
        attention_head_dim=2,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=CHANNELS,
        norm_num_groups=4,
    )
    ToyPipeline(painter, vae, diffusers.DDIMScheduler()).save_pretrained(cache / "toy", safe_serialization=True)
    return cache


@pytest.fixture
def folder(saved: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    monkeypatch.setattr(diffusers, "ToyPipeline", ToyPipeline, raising=False)
    monkeypatch.setitem(FAMILIES, "ToyPipeline", TOY)
    return inspect(saved, "toy")


def settings(**more: Any) -> Settings:
    return Settings(model_name="toy", runner_device="cpu", **more)


def request(**more: Any) -> RunRequest:
    fields = {"task_id": "0" * 32, "model_name": "toy", "prompt": "a toy", "width": 32, "height": 32}
    fields |= {"steps": 3, "guidance_scale": 1.0, "seed": 1, "scheduler": "default"}
    return RunRequest.model_validate(fields | more)


def drawn(model: Model, *requests: RunRequest) -> list[list[Frame]]:
    """The frames of each request; the engine gets all requests at once."""
    engine = Engine(model, monotonic)
    queues = [Queue[Frame]() for _ in requests]
    for each, queue in zip(requests, queues, strict=True):
        engine.submit(each, queue.put)
    answers = []
    for queue in queues:
        frames = [queue.get(timeout=60)]
        while not isinstance(frames[-1], End):
            frames.append(queue.get(timeout=60))
        answers.append(frames)
    engine.close(5)
    return answers


def pixels(frames: Sequence[Frame]) -> np.ndarray[Any, Any]:
    (image,) = [frame for frame in frames if isinstance(frame, Image)]
    return np.asarray(Picture.open(BytesIO(image.payload))).astype(int)


def test_its_capabilities_follow_from_the_folder(folder: ModelFolder) -> None:
    capabilities = describe(folder, settings())
    assert (capabilities.family, capabilities.width, capabilities.height) == ("toy", 32, 32)
    assert (capabilities.size_multiple, capabilities.max_pixels) == (SCALE, 4 * 32 * 32)
    assert (capabilities.schedulers, capabilities.steps) == (("default",), 3)
    assert not capabilities.negative_prompt


def test_its_rows_that_share_a_forward_are_drawn_as_if_alone(folder: ModelFolder) -> None:
    model = load(folder, settings())
    first, second = request(preview=True), request(prompt="another toy", seed=2, steps=5)
    together = drawn(model, first, second)
    for each, frames in zip((first, second), together, strict=True):
        (alone,) = drawn(model, each)
        assert abs(pixels(frames) - pixels(alone)).max() <= 1
    assert [frame.kind for frame in together[0]].count("preview") == 1
    (preview,) = [frame for frame in together[0] if isinstance(frame, Preview)]
    assert Picture.open(BytesIO(preview.payload)).size == (16, 16)


def test_quantization_finds_its_denoiser(folder: ModelFolder) -> None:
    model = load(folder, settings(acceleration_quantization="int8"))
    assert model.acceleration["quantization"] == "int8"
    quantized = {type(part).__name__ for part in model.family.pipe.painter.modules()}
    assert "QLinear" in quantized
    assert [frame.kind for frame in drawn(model, request())[0]][-2:] == ["image", "end"]


def test_compilation_finds_the_blocks_of_its_denoiser(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    # Real tracing with the eager backend: inductor takes a minute on this machine.
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    model = load(folder, settings(acceleration_compile=True))
    assert model.acceleration["compile"] == "regional"
    blocks = [part for part in model.family.pipe.painter.modules() if type(part).__name__ == "BasicTransformerBlock"]
    assert blocks
    assert all(block._compiled_call_impl is not None for block in blocks)
    plain = load(folder, settings())
    assert abs(pixels(drawn(model, request())[0]) - pixels(drawn(plain, request())[0])).max() <= 1


@pytest.mark.parametrize(
    ("config", "key", "sentence"),
    [
        ("painter", "in_channels", "latent_rgb has 4 rows; it takes 8, or 9 with a bias"),
        ("painter", "sample_size", "lacks a usable value"),
        ("vae", "block_out_channels", "lacks a usable value"),
    ],
)
def test_a_folder_that_does_not_fit_its_facts_is_refused(
    folder: ModelFolder, tmp_path: Path, config: str, key: str, sentence: str
) -> None:
    shutil.copytree(folder.path, tmp_path / "toy")
    file = tmp_path / "toy" / config / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: 8 if key == "in_channels" else None}))
    with pytest.raises(UnusableModel, match=sentence):
        inspect(tmp_path, "toy")


@pytest.fixture
def client(folder: ModelFolder) -> Iterator[httpx.Client]:
    """A client of its loaded runner."""
    from fastapi.testclient import TestClient

    from tests.runners.test_server import until

    with TestClient(build_app(folder, settings(runner_grace=1)), base_url="http://127.0.0.1") as client:
        until(lambda: client.get("/readyz").status_code == 200, 60)
        yield client


def run(client: httpx.Client, run_request: RunRequest, *files: Frame) -> httpx.Response:
    body = b"".join(map(encode, (Request(payload=run_request.model_dump_json().encode()), *files)))
    return client.post("/run", content=body, headers={"Content-Type": FRAMES})


def run_plain(client: httpx.Client, run_request: RunRequest) -> httpx.Response:
    return client.post("/run", content=run_request.model_dump_json(), headers={"Content-Type": JSON})


def start(byte: int, name: str = "start") -> Input:
    return Input(name=name, content_type="image/png", payload=bytes([byte]))


def test_its_runner_draws_from_the_input_that_the_caller_sends(client: httpx.Client) -> None:
    drawn_from = request(inputs=["start"])
    answers = [list(Decoder().feed(run(client, drawn_from, start(byte)).content)) for byte in (0, 200)]
    plain = list(Decoder().feed(run_plain(client, request()).content))
    assert (pixels(answers[0]) == pixels(plain)).all()
    assert (pixels(answers[1]) != pixels(plain)).any()


def test_its_runner_refuses_what_it_cannot_do(client: httpx.Client) -> None:
    refused = {
        "size_not_supported": run_plain(client, request(width=33)),
        "negative_prompt_not_supported": run_plain(client, request(negative_prompt="x")),
        "prompt_too_long": run_plain(client, request(prompt="x" * 51)),
    }
    assert {code: (answer.status_code, answer.json()["code"]) for code, answer in refused.items()} == {
        code: (422, code) for code in refused
    }


@pytest.mark.parametrize(
    ("inputs", "files", "sentence"),
    [
        (["mask"], [start(1, "mask")], "takes no input 'mask'. Inputs: start."),
        (["start"], [], "names the inputs start; the frames after it are none"),
        ([], [start(1)], "names the inputs none; the frames after it are start"),
        (["start"], [start(1), start(2)], "the frames after it are start, start"),
        (["start"], [End()], "the frames after it are end"),
    ],
)
def test_its_runner_names_the_input_that_is_wrong(
    client: httpx.Client, inputs: list[str], files: list[Frame], sentence: str
) -> None:
    answer = run(client, request(inputs=inputs), *files)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "invalid_request", "inputs")
    assert sentence in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"", b"\xff" * 9, encode(start(1)), encode(Request(payload=b"{}"))[:-1]])
def test_its_runner_refuses_a_body_that_is_not_a_stream_of_frames(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/run", content=body, headers={"Content-Type": FRAMES})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_inputs_beyond_the_limit_are_refused(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runners.wire.INPUTS_LIMIT", 1000)
    big = Input(name="start", content_type="image/png", payload=b"x" * 1000)
    answer = run(client, request(inputs=["start"]), big)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
