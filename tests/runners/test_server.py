"""A runner over real HTTP, with real frames."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn
from PIL import Image

from config.settings import Settings
from runners.model_folder import inspect
from runners.server import build_app
from tasks.capabilities import RunnerDescription, ServedModel
from tasks.runner_api import Decoder, End, Error, Frame, Preview, RunRequest, Step


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Poll until the condition holds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)
    return value


@pytest.fixture(scope="module")
def runner(cache: Path) -> Iterator[str]:
    """The URL of a loaded runner of sd-mini."""
    settings = Settings(  # type: ignore[call-arg]
        model_name="sd-mini",
        model_cache_dir=cache,
        runner_device="cpu",
        runner_grace=1,
        model_stand_ins={"stable-diffusion-v1-5": "sd-mini"},
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = build_app(inspect(cache, "sd-mini"), settings)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    until(ready, 60)
    yield url
    server.should_exit = True
    thread.join(20)


def body(**more: Any) -> dict[str, Any]:
    fields = {
        "task_id": "7" * 32,
        "model_name": "sd-mini",
        "prompt": "a red circle",
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance_scale": 3.0,
        "seed": 5,
        "scheduler": "ddim",
    }
    return fields | more


def run(url: str, **more: Any) -> list[Frame]:
    """Every frame of one task."""
    decoder = Decoder()
    with httpx.stream("POST", f"{url}/run", json=body(**more), timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        return [frame for data in answer.iter_raw() for frame in decoder.feed(data)]


def card(url: str) -> ServedModel:
    return ServedModel.model_validate_json(httpx.get(f"{url}/card").content)


def test_a_task_is_reported_from_accepted_to_end_step_by_step(runner: str) -> None:
    frames = run(runner)
    assert [frame.kind for frame in frames] == ["accepted", "started", *["step"] * 4, "image", "end"]
    assert [(f.step, f.steps) for f in frames if isinstance(f, Step)] == [(n, 4) for n in range(1, 5)]
    end = frames[-1]
    assert isinstance(end, End)
    assert end.images == 1
    assert end.seconds_generating > 0  # type: ignore[operator]


def stand_in(**more: Any) -> dict[str, Any]:
    return {
        "alias": "stable-diffusion-v1-5",
        "width": 512,
        "height": 256,
        "drawn_at": {"width": 64, "height": 64},
    } | more


def test_a_stand_in_draws_small_and_delivers_the_size_asked_for(runner: str) -> None:
    image, plain = (next(frame for frame in run(runner, **more) if frame.kind == "image") for more in (stand_in(), {}))
    picture, drawn = (Image.open(BytesIO(frame.payload)) for frame in (image, plain))
    assert picture.size == (image.width, image.height) == (512, 256)  # type: ignore[union-attr]
    assert picture.convert("RGB").tobytes() == (
        drawn.convert("RGB").resize((512, 256), Image.Resampling.LANCZOS).tobytes()
    )
    assert "Size: 512x256" in picture.info["parameters"]
    assert "Drawn at: 64x64" in picture.info["parameters"]


@pytest.mark.parametrize(
    "more", [{"model_name": "flux-mini"}, {"model_name": "stable-diffusion-v1-5"}, stand_in(model_name="flux-mini")]
)
def test_a_runner_refuses_a_task_of_a_model_that_it_only_has_as_an_alias(runner: str, more: dict[str, Any]) -> None:
    answer = httpx.post(f"{runner}/run", json=body(**more))
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_model")
    assert answer.json()["allowed"] == ["sd-mini"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"


@pytest.mark.parametrize(
    "more",
    [
        {"drawn_at": None},
        {"drawn_at": {"width": 8, "height": 8}},
        {"alias": None},
        {"alias": "another"},
        {"width": 4096},
    ],
)
def test_a_runner_refuses_a_size_that_the_stand_in_would_draw_differently(runner: str, more: dict[str, Any]) -> None:
    answer = httpx.post(f"{runner}/run", json=body(**stand_in(**more)))
    assert (answer.status_code, answer.json()["code"]) == (422, "size_not_supported")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_an_image_carries_the_parameters_that_made_it(runner: str, kind: str) -> None:
    metadata = {"task_id": "7" * 32, "alias": "stable-diffusion-v1-5 answered by sd-mini"}
    frames = run(
        runner, format=kind, negative_prompt="blue ☃", loras=[{"name": "night", "weight": 0.5}], metadata=metadata
    )
    image = Image.open(BytesIO(next(frame.payload for frame in frames if frame.kind == "image")))
    if kind == "png":
        parameters, everything = image.info["parameters"], image.info["ai-image-gen"]
    else:
        exif = image.getexif()
        comment = exif.get_ifd(0x8769)[0x9286]
        assert comment.startswith(b"UNICODE\0")
        parameters, everything = comment[8:].decode("utf-16-be"), exif[0x010E]
    assert parameters.splitlines()[:2] == ["a red circle", "Negative prompt: blue ☃"]
    for part in ("Steps: 4", "Sampler: DDIM", "CFG scale: 3", "Seed: 5", "Size: 64x64", "Model: sd-mini", "night: 0.5"):
        assert part in parameters
    metadata_read = json.loads(everything)
    assert metadata_read["alias"] == metadata["alias"]
    assert metadata_read["acceleration"]["compile"] == "off"


def test_hanging_up_frees_the_engine_within_a_step(runner: str) -> None:
    decoder = Decoder()
    with httpx.stream("POST", f"{runner}/run", json=body(steps=150), timeout=60) as answer:
        for data in answer.iter_raw():
            if any(frame.kind == "step" for frame in decoder.feed(data)):
                break
    until(lambda: card(runner).running_pixels == 0, 5)


def test_a_request_beyond_the_capabilities_is_refused_with_its_code(runner: str) -> None:
    for more, code in [
        ({"loras": [{"name": "nope"}]}, "unknown_lora"),
        ({"width": 63}, "size_not_supported"),
        ({"scheduler": "nope"}, "unknown_scheduler"),
        ({"steps": 0}, "invalid_request"),
        ({"seed": "x"}, "invalid_request"),
        ({"inputs": ["image"]}, "invalid_request"),
    ]:
        answer = httpx.post(f"{runner}/run", json=body(**more))
        assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_a_full_runner_says_so_at_once(runner: str) -> None:
    budget = card(runner).pixel_budget
    rooms = 2 * budget // (64 * 64)
    streams = [httpx.Client(timeout=60) for _ in range(rooms)]
    opened = [
        client.send(client.build_request("POST", f"{runner}/run", json=body(steps=150)), stream=True)
        for client in streams
    ]
    answer = httpx.post(f"{runner}/run", json=body())
    for stream in opened:
        stream.close()
    for client in streams:
        client.close()
    assert (answer.status_code, answer.json()["code"]) == (429, "runner_busy")
    until(lambda: card(runner).running_pixels == 0, 10)


def test_a_task_that_runs_too_long_ends_with_an_error_frame(runner: str) -> None:
    frames = run(runner, steps=150, max_runtime=0.05)
    assert [frame.kind for frame in frames][-2:] == ["error", "end"]
    assert isinstance(frames[-2], Error)
    assert frames[-2].code == "ran_too_long"


def test_a_task_that_requires_an_unknown_field_is_left_to_a_newer_runner(runner: str) -> None:
    answer = httpx.post(f"{runner}/run", json=body(requires=["mask"]))
    assert answer.json()["code"] == "not_understood"
    assert "mask" in answer.json()["detail"]
    assert run(runner, requires=[])[-1].kind == "end"


def test_previews_are_sent_when_requested(runner: str) -> None:
    previews = [frame for frame in run(runner, preview=True) if isinstance(frame, Preview)]
    assert previews
    assert previews[0].step == 1
    assert Image.open(BytesIO(previews[0].payload)).format == "JPEG"
    assert not [frame for frame in run(runner) if isinstance(frame, Preview)]


def test_a_task_gets_at_most_one_preview_a_second_of_its_first_image(cache: Path) -> None:
    from runners.engine import Engine
    from runners.loading import load

    time_now = [0.0]
    steps, previews, submitted, ended = [], [], threading.Event(), threading.Event()
    first: list[bytes] = []

    def emit(frame: Frame) -> None:
        if isinstance(frame, Step):
            assert submitted.wait(60)  # the engine's thread may be faster than the assignment of `job`
            steps.append(frame.step)
            time_now[0] += 0.4
        elif isinstance(frame, Preview):
            previews.append(frame)
            first.append(preview_of(job.samples[0]))
        elif isinstance(frame, End):
            ended.set()

    def preview_of(sample: Any) -> bytes:
        from runners.previews import jpeg, render

        matrix = model.facts.latent_rgb
        assert matrix is not None
        return jpeg(render(model.family.latents(sample), matrix))

    model = load(inspect(cache, "sd-mini"), Settings(runner_device="cpu"))  # type: ignore[call-arg]
    engine = Engine(model, lambda: time_now[0])
    job = engine.submit(RunRequest.model_validate(body(steps=9, num_images=2, preview=True)), emit)
    submitted.set()
    assert ended.wait(60)
    engine.close(5)
    assert steps == list(range(1, 10))
    assert [frame.step for frame in previews] == [1, 4, 7]
    assert [frame.payload for frame in previews] == first


def test_the_card_describes_the_loaded_model(runner: str) -> None:
    described = card(runner)
    assert (described.model, described.aliases, described.loras) == (
        "sd-mini",
        ("stable-diffusion-v1-5",),
        ("night", "outline"),
    )
    assert described.seconds_per_megapixel_step > 0
    assert "ai_image_gen_runner_batch_rows" in httpx.get(f"{runner}/metrics").text


def test_models_and_card_agree_on_a_loaded_model(runner: str) -> None:
    description = RunnerDescription.model_validate_json(httpx.get(f"{runner}/models").content)
    assert description.status.models["sd-mini"].loaded
    assert description.served() == {"sd-mini": card(runner)}


def test_a_group_too_large_for_the_memory_is_retried_in_halves(cache: Path) -> None:
    from tests.runners.conftest import Bench

    bench = Bench(cache, "sd-mini")
    predict = bench.model.family.predict

    def short_of_memory(samples: Any) -> Any:
        if len(samples) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(samples)

    bench.model.family.predict = short_of_memory  # type: ignore[method-assign]
    ran = [bench.submit(bench.request(seed=seed)) for seed in (1, 2, 3)]
    assert all([frame.kind for frame in submitted.frames()][-2:] == ["image", "end"] for submitted in ran)
    bench.engine.close(5)


def test_a_lora_made_for_another_model_is_not_offered(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    from runners.loading import load

    shutil.copytree(cache / "sd-mini", tmp_path / "sd-mini")
    shutil.copy(cache / "flux-mini/loras/night.safetensors", tmp_path / "sd-mini/loras/foreign.safetensors")
    model = load(inspect(tmp_path, "sd-mini"), Settings(runner_device="cpu"))  # type: ignore[call-arg]
    assert model.adapters.names == ("night", "outline")
    assert "foreign.safetensors cannot be used" in caplog.text


def test_a_quantized_runner_says_so_and_still_draws(cache: Path) -> None:
    from time import monotonic

    from runners.engine import Engine
    from runners.loading import load
    from runners.warm_up import warm_up, warm_up_request

    settings = Settings(runner_device="cpu", acceleration_quantization="int8")  # type: ignore[call-arg]
    model = load(inspect(cache, "flux-mini"), settings)
    assert model.acceleration["quantization"] == "int8"
    engine = Engine(model, monotonic)
    warm_up(engine, [warm_up_request(model.facts, 2)])
    engine.close(5)


def test_a_runner_that_still_loads_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastapi.testclient import TestClient

    from runners.server import ModelServer

    monkeypatch.setattr(ModelServer, "start", lambda self, failed: None)
    settings = Settings(model_name="sd-mini", model_cache_dir=cache)  # type: ignore[call-arg]
    with TestClient(build_app(inspect(cache, "sd-mini"), settings), base_url="http://127.0.0.1") as client:
        for answer in (client.post("/run", json=body()), client.get("/card"), client.get("/readyz")):
            assert (answer.status_code, answer.json()["code"]) == (503, "runner_loading")
        assert client.get("/livez").status_code == 200
        description = RunnerDescription.model_validate_json(client.get("/models").content)
        assert description.capabilities["sd-mini"].loras == ("night", "outline")
        assert not description.status.models["sd-mini"].loaded
        assert description.served() == {}
