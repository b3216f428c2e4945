"""The capabilities of a model are read from its folder without loading it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from config.settings import Settings
from runners.capabilities import describe, narrow
from runners.describe import describe_unserved
from runners.families import UnusableModel
from runners.families.schedulers import SAMPLERS
from runners.model_folder import inspect
from tasks.capabilities import ServedModel


def settings(model: str, **more: object) -> Settings:
    return Settings(model_name=model, runner_device="cpu", **more)  # type: ignore[arg-type]


def test_capabilities_are_read_from_the_folder_alone(cache: Path) -> None:
    aliases = {"stable-diffusion-v1-5": "sd-mini", "flux-1-dev": "flux-mini"}
    sd = describe(inspect(cache, "sd-mini"), settings("sd-mini", model_aliases=aliases))
    assert (sd.model, sd.family, sd.aliases) == ("sd-mini", "stable_diffusion", ("stable-diffusion-v1-5",))
    assert (sd.width, sd.height, sd.size_multiple, sd.max_pixels) == (64, 64, 4, 4 * 64 * 64)
    assert (sd.schedulers[0], set(sd.schedulers)) == (sd.default_scheduler, set(SAMPLERS))
    assert sd.loras == ("night", "outline")
    flux = describe(inspect(cache, "flux-mini"), settings("flux-mini", model_aliases=aliases))
    assert (flux.family, flux.schedulers, flux.size_multiple) == ("flux", ("flow_euler",), 16)


def test_reading_capabilities_loads_no_torch(cache: Path) -> None:
    code = f"""
import sys, pathlib
from config.settings import Settings
from runners.capabilities import describe
from runners.model_folder import inspect
print(describe(inspect(pathlib.Path({str(cache)!r}), "sd-mini"), Settings(model_name="sd-mini")).family)
assert "torch" not in sys.modules and "diffusers" not in sys.modules
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, "stable_diffusion"), ran.stderr


def test_loading_narrows_the_loras_and_the_largest_image(cache: Path) -> None:
    before = describe(inspect(cache, "sd-mini"), settings("sd-mini"))
    after = narrow(before, ("night",), 2 * 64 * 64)
    assert (after.loras, after.max_pixels) == (("night",), 2 * 64 * 64)
    assert narrow(before, (), 1).max_pixels == 64 * 64
    assert narrow(before, (), 10**9).max_pixels == before.max_pixels


@pytest.mark.parametrize(
    ("file", "fields", "sentence"),
    [
        ("unet/config.json", {"time_cond_proj_dim": 4}, "a consistency model"),
        ("vae/config.json", {"block_out_channels": None}, "lacks a usable value"),
        ("defaults.json", {"latent_rgb": [[1, 1, 1]]}, "latent_rgb has 1 rows; it takes 4, or 5 with a bias"),
    ],
)
def test_a_model_that_cannot_run_is_refused_before_it_is_loaded(
    cache: Path, tmp_path: Path, file: str, fields: dict[str, object], sentence: str
) -> None:
    shutil.copytree(cache / "sd-mini", tmp_path / "sd-mini")
    path = tmp_path / "sd-mini" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(UnusableModel, match=sentence) as refused:
        inspect(tmp_path, "sd-mini")
    assert str(tmp_path / "sd-mini") in str(refused.value)


@pytest.mark.parametrize(
    ("own", "first"), [("DDIMScheduler", "ddim"), ("EulerDiscreteScheduler", "euler"), ("TCDScheduler", "default")]
)
def test_a_models_own_scheduler_comes_first(cache: Path, tmp_path: Path, own: str, first: str) -> None:
    shutil.copytree(cache / "sd-mini", tmp_path / "sd-mini")
    path = tmp_path / "sd-mini/scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": own}))
    capabilities = describe(inspect(tmp_path, "sd-mini"), settings("sd-mini"))
    assert capabilities.default_scheduler == capabilities.schedulers[0] == first


def test_a_model_is_described_for_publication_without_loading_it(cache: Path) -> None:
    environ = {"PATH": "", "PYTHONPATH": ".", "MODEL_CACHE_DIR": str(cache), "MODEL_NAME": "sd-mini"}
    code = "import sys, runners.describe; runners.describe.main(); assert not {'torch', 'diffusers'} & set(sys.modules)"
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, env=environ, capture_output=True, check=False, timeout=60, text=True)
    assert ran.returncode == 0, ran.stderr
    model = ServedModel.model_validate_json(ran.stdout)
    assert (model.model, model.runners, model.loading, model.seconds_per_megapixel_step) == ("sd-mini", 0, 0, 0.0)
    assert (model.pixel_budget, model.loras) == (64 * 64, ("night", "outline"))
    assert (
        describe_unserved(settings("sd-mini", model_cache_dir=cache, runner_pixel_budget=3 * 64 * 64)).pixel_budget
        == 3 * 64 * 64
    )


def test_a_model_without_a_folder_is_not_described(cache: Path) -> None:
    with pytest.raises(UnusableModel, match="There is no model folder"):
        describe_unserved(settings("no-model", model_cache_dir=cache))
