"""A folder that cannot be used is refused with one sentence that names the folder and the file."""

import json
import os
import shutil
from pathlib import Path

import pytest

from bentos.model_files import model_files
from runners.families import UnusableModel
from runners.model_folder import inspect
from tests.support import published


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


@pytest.mark.parametrize("name", ["x" * 5000, "file", "link", "circle", ".", "evil\0"])
def test_a_name_that_is_no_model_folder_gets_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "circle").symlink_to("circle")
    published.write("stable-diffusion-v1-5", tmp_path / "evil\x1b[31m")
    with pytest.raises(UnusableModel, match=r"no model folder .*evil.x1b\[31m|model_index.json is missing"):
        inspect(tmp_path, name)


@pytest.mark.parametrize("model", published.PUBLISHED)
def test_a_bento_holds_every_file_that_its_runner_reads(model: str, tmp_path: Path) -> None:
    published.write(model, tmp_path / model)
    assert {str(source) for source in inspect(tmp_path, model).sources} <= set(model_files(tmp_path, model))


@pytest.mark.parametrize("model", published.PUBLISHED)
def test_a_published_folder_passes_as_it_is(model: str, tmp_path: Path) -> None:
    folder = inspect(tmp_path, published.write(model, tmp_path / model).name)
    flux = model.startswith("FLUX")
    assert folder.facts.spec.name == ("flux" if flux else "stable_diffusion")
    assert (folder.facts.width, folder.facts.height) == (
        (1024,) * 2 if flux else (768,) * 2 if "2-1" in model else (512,) * 2
    )
    assert {part.name for part in folder.parts} == set(folder.facts.spec.parts) - set(folder.facts.spec.without)


def test_its_sources_are_all_that_a_runner_reads(tmp_path: Path) -> None:
    written = published.write("FLUX.1-dev", tmp_path / "whole")
    folder = inspect(tmp_path, "whole")
    names = {str(source) for source in folder.sources}
    assert {"model_index.json", "tokenizer/merges.txt", "tokenizer_2/spiece.model"} <= names
    assert {name for name in names if name.startswith("transformer/")} == {
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        *(f"transformer/diffusion_pytorch_model-{shard:05}-of-00003.safetensors" for shard in (1, 2, 3)),
    }
    assert not {name for name in names if name.endswith((".bin", ".ckpt", ".md"))}
    for name in names:
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(written / name, tmp_path / "copy" / name)
    copy = inspect(tmp_path, "copy")
    assert (copy.facts, copy.digest, copy.sources) == (folder.facts, folder.digest, folder.sources)


def test_weights_of_a_variant_are_used_where_there_are_no_others(tmp_path: Path) -> None:
    unet = published.write("stable-diffusion-v1-5", tmp_path / "sd") / "unet"
    files = [part.files for part in inspect(tmp_path, "sd").parts if part.name == "unet"]
    assert files == [{"diffusion_pytorch_model.safetensors": unet / "diffusion_pytorch_model.safetensors"}]
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    files = [part.files for part in inspect(tmp_path, "sd").parts if part.name == "unet"]
    assert files == [{"diffusion_pytorch_model.safetensors": unet / "diffusion_pytorch_model.fp16.safetensors"}]


def test_shards_of_a_variant_are_found_by_their_index(tmp_path: Path) -> None:
    unet = published.write("stable-diffusion-v1-5", tmp_path / "sd") / "unet"
    for weights in unet.glob("*.safetensors"):
        weights.unlink()
    names = [f"diffusion_pytorch_model.fp16-0000{shard}-of-00002.safetensors" for shard in (1, 2)]
    for name in names:
        (unet / name).write_bytes(published.weights())
    index = {"metadata": {"total_size": 2}, "weight_map": {"a": names[0], "b": names[1]}}
    (unet / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(index))
    (part,) = [part for part in inspect(tmp_path, "sd").parts if part.name == "unet"]
    assert part.files == {name: unet / name for name in names}
    assert part.documents["diffusion_pytorch_model.safetensors.index.json"]["weight_map"] == index["weight_map"]


def test_a_snapshot_of_the_hub_is_read_through_its_links(tmp_path: Path) -> None:
    hub = tmp_path / "hub/models--a--b"
    snapshot = published.write("stable-diffusion-v1-5", hub / "snapshots/0123")
    (hub / "blobs").mkdir()
    for number, file in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
        file.rename(hub / "blobs" / str(number))
        file.symlink_to(os.path.relpath(hub / "blobs" / str(number), file.parent))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/sd").symlink_to(snapshot)
    assert inspect(tmp_path / "cache", "sd").facts.width == 512
    (snapshot / "unet/config.json").unlink()
    (hub / "config.json").write_text("{}")
    (snapshot / "unet/config.json").symlink_to("../../../config.json")
    with pytest.raises(UnusableModel, match="not in the model cache"):
        inspect(tmp_path / "cache", "sd")
