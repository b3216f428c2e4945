"""A folder that cannot be used is refused with one sentence that names the folder and the file."""

import shutil
from pathlib import Path

import pytest

from runners.families import UnusableModel
from runners.model_folder import inspect


@pytest.fixture
def copied(cache: Path, tmp_path: Path) -> Path:
    shutil.copytree(cache / "sd-mini", tmp_path / "sd-mini")
    return tmp_path


def test_a_missing_folder_names_what_is_there(cache: Path) -> None:
    with pytest.raises(UnusableModel, match=r"no model folder .*nothing.*flux-mini, sd-mini"):
        inspect(cache, "nothing")


def test_a_weight_file_cut_short_is_named(copied: Path) -> None:
    weights = next((copied / "sd-mini/unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UnusableModel, match=rf"{weights} is broken"):
        inspect(copied, "sd-mini")


def test_a_pickle_is_refused_by_name(copied: Path) -> None:
    weights = next((copied / "sd-mini/vae").glob("*.safetensors"))
    pickle = weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UnusableModel, match=rf"{pickle} is a pickle"):
        inspect(copied, "sd-mini")


def test_a_missing_or_unknown_index_is_named(copied: Path) -> None:
    index = copied / "sd-mini/model_index.json"
    index.write_text('{"_class_name": "OtherPipeline"}')
    with pytest.raises(
        UnusableModel,
        match=r"OtherPipeline; supported are StableDiffusionPipeline, FluxPipeline",
    ):
        inspect(copied, "sd-mini")
    index.unlink()
    with pytest.raises(UnusableModel, match=rf"{index} is missing"):
        inspect(copied, "sd-mini")
