"""Model folders that somebody made to run code, to reach the network or to break the check of a folder."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from runners.capabilities import describe
from runners.families import UnusableModel
from runners.model_folder import inspect
from tests.support import published

NAME = "stable-diffusion-v1-5"
Change = Callable[[Path], object]


def fields(file: str, **more: Any) -> Change:
    """A change that sets these fields of a JSON file; a field is removed by `...`."""

    def change(folder: Path) -> None:
        document = json.loads((folder / file).read_text()) | more
        kept = {name: value for name, value in document.items() if value is not ...}
        (folder / file).write_text(json.dumps(kept))

    return change


def text(file: str, content: str | bytes) -> Change:
    """A change that replaces the content of a file, whatever stands in its place."""

    def change(folder: Path) -> None:
        away(folder / file)
        (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def instead(file: str, make: Callable[[Path], object]) -> Change:
    """A change that puts something else in the place of a file or a folder."""

    def change(folder: Path) -> None:
        away(folder / file)
        make(folder / file)

    return change


def away(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def header(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


def sparse(file: Path, size: int, start: bytes = b"") -> None:
    with file.open("wb") as data:
        data.write(start)
        data.truncate(size)


def tensor(**more: Any) -> bytes:
    return published.weights({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]} | more})


INDEX, UNET, VAE, TEXT = "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SHARDED = "unet/diffusion_pytorch_model.safetensors.index.json"
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
TOKENIZER = "tokenizer/tokenizer_config.json"

HOSTILE: dict[str, tuple[Change, str]] = {
    # A part of another class.
    "nested pipeline": (fields(INDEX, vae=["diffusers", "DiffusionPipeline"]), "vae"),
    "nested pipeline of the own family": (fields(INDEX, unet=["diffusers", "StableDiffusionPipeline"]), "unet"),
    "nested pipeline that is not loaded": (fields(INDEX, safety_checker=["diffusers", "DiffusionPipeline"]), "safety_"),
    "class of another part": (fields(INDEX, scheduler=["diffusers", "AutoencoderKL"]), "scheduler"),
    "automatic class": (fields(INDEX, text_encoder=["transformers", "AutoModel"]), "text_encoder"),
    "class in a module": (fields(INDEX, vae=["diffusers.models", "AutoencoderKL"]), "vae"),
    "class with dots": (fields(INDEX, vae=["diffusers", "models.AutoencoderKL"]), "vae"),
    "class of the standard library": (fields(INDEX, vae=["subprocess", "Popen"]), "vae"),
    "class in a downloaded module": (fields(INDEX, vae=["diffusers_modules.local.vae", "Evil"]), "vae"),
    "class in a file of the folder": (fields(INDEX, unet=["my_unet", "Evil"]), "unet"),
    "three entries": (fields(INDEX, vae=["diffusers", "AutoencoderKL", "Evil"]), "vae"),
    "one entry": (fields(INDEX, vae=["diffusers"]), "vae"),
    "half a null": (fields(INDEX, vae=[None, "AutoencoderKL"]), "vae"),
    "no entry": (fields(INDEX, vae=[]), "vae"),
    "lists of lists": (fields(INDEX, vae=[["diffusers"], ["AutoencoderKL"]]), "vae"),
    "objects as class": (fields(INDEX, vae=[{}, {}]), "vae"),
    "part as text": (fields(INDEX, vae="AutoencoderKL"), "vae"),
    "part as object": (fields(INDEX, vae={"library": "diffusers"}), "vae"),
    "part that the family lacks": (fields(INDEX, evil=["diffusers", "AutoencoderKL"]), "evil"),
    "part outside": (fields(INDEX, **{"../vae": ["diffusers", "AutoencoderKL"]}), r"\.\./vae"),
    "custom pipeline": (fields(INDEX, _class_name=["pipeline", "Evil"]), "supported are"),
    "pipeline with dots": (fields(INDEX, _class_name="os.system"), "supported are"),
    "pipeline as number": (fields(INDEX, _class_name=7), "supported are"),
    "pipeline of surrogates": (fields(INDEX, _class_name="\ud800"), "supported are"),
    "pipeline with a long name": (fields(INDEX, _class_name="x" * 10**6), "supported are"),
    "missing part": (fields(INDEX, tokenizer=...), "tokenizer"),
    "null part": (fields(INDEX, tokenizer=[None, None]), "tokenizer"),
    "other class in the part's config": (fields(VAE, _class_name="DiffusionPipeline"), "vae"),
    "other scheduler in its config": (
        fields("scheduler/scheduler_config.json", _class_name="StableDiffusionPipeline"),
        "scheduler",
    ),
    # JSON.
    "deep index": (text(INDEX, DEEP), "nested too deeply"),
    "deep list": (text(INDEX, "[" * 200_000), "nested too deeply"),
    "deep config": (text(UNET, DEEP), "nested too deeply"),
    "deep defaults": (text("defaults.json", DEEP), "nested too deeply"),
    "deep tokenizer config": (text(TOKENIZER, DEEP), "nested too deeply"),
    "deep shard index": (text(SHARDED, DEEP), "nested too deeply"),
    "not UTF-8": (text(INDEX, b'{"_class_name": "\xff\xfe"}'), "cannot be read"),
    "not JSON": (text(UNET, "{"), "cannot be read"),
    "empty file": (text(UNET, ""), "cannot be read"),
    "NaN": (text(VAE, '{"block_out_channels": [1, 1], "scaling_factor": NaN}'), "NaN"),
    "Infinity": (text(UNET, '{"in_channels": Infinity}'), "Infinity"),
    "number beyond any float": (text(UNET, '{"in_channels": 1e999}'), "1e999"),
    "number of 5000 digits": (text(UNET, '{"in_channels": ' + "9" * 5000 + "}"), "cannot be read"),
    "duplicate keys": (text(UNET, '{"in_channels": 4, "in_channels": 5}'), "twice"),
    "index as list": (text(INDEX, "[]"), "not a JSON object"),
    "config as text": (text(UNET, '"x"'), "not a JSON object"),
    "huge index": (instead(INDEX, lambda file: sparse(file, 10**10)), "larger than"),
    "huge config": (instead(VAE, lambda file: sparse(file, 10**10)), "larger than"),
    "huge vocabulary": (instead("tokenizer/vocab.json", lambda file: sparse(file, 10**10)), "larger than"),
    # Values.
    "channels as text": (fields(VAE, block_out_channels="12345"), "lacks a usable value"),
    "channels as object": (fields(VAE, block_out_channels={"a": 1}), "lacks a usable value"),
    "thousands of channels": (fields(VAE, block_out_channels=[8] * 5000), "lacks a usable value"),
    "no channels": (fields(VAE, block_out_channels=[]), "lacks a usable value"),
    "latents as list": (fields(UNET, in_channels=[4]), "lacks a usable value"),
    "latents as object": (fields(UNET, in_channels={}), "lacks a usable value"),
    "no latents": (fields(UNET, in_channels=0), "lacks a usable value"),
    "size of three": (fields(UNET, sample_size=[64, 64, 64]), "lacks a usable value"),
    "size as object": (fields(UNET, sample_size={"a": 1, "b": 2}), "lacks a usable value"),
    "size as list of lists": (fields(UNET, sample_size=[[64], [64]]), "lacks a usable value"),
    "size of zero": (fields(UNET, sample_size=0), "lacks a usable value"),
    "negative size": (fields(UNET, sample_size=-64), "lacks a usable value"),
    "endless size": (fields(UNET, sample_size=10**30), "lacks a usable value"),
    "size as yes": (fields(UNET, sample_size=True), "lacks a usable value"),
    "class of the part as list": (fields(UNET, _class_name=["UNet2DConditionModel"]), "unet"),
    "defaults of another type": (text("defaults.json", '{"width": {}}'), "width"),
    "defaults unknown": (text("defaults.json", '{"custom_pipeline": "evil"}'), "custom_pipeline"),
    "defaults below zero": (text("defaults.json", '{"width": -64}'), "width"),
    "defaults beyond any size": (text("defaults.json", '{"height": 1000000000}'), "height"),
    "defaults with no step": (text("defaults.json", '{"steps": 0}'), "steps"),
    "defaults of nothing": (text("defaults.json", '{"guidance_scale": NaN}'), "NaN"),
    "defaults beside the limits": (text("defaults.json", '{"width": 512, "max_side": 64}'), "max_side"),
    "defaults between the latents": (text("defaults.json", '{"width": 65}'), "width"),
    "ragged colors": (text("defaults.json", '{"latent_rgb": [[1], [1, 2]]}'), "latent_rgb"),
    # Weights.
    "weights cut short": (text(WEIGHTS, published.weights()[:-1]), "broken"),
    "weights with more": (text(WEIGHTS, published.weights() + b"x"), "broken"),
    "empty weights": (text(WEIGHTS, b""), "not a safetensors file"),
    "seven bytes": (text(WEIGHTS, b"\0" * 7), "not a safetensors file"),
    "header of 100 MB": (instead(WEIGHTS, lambda file: sparse(file, 10**8, header(b"{", 10**8))), "not a safetensors"),
    "header beyond any file": (text(WEIGHTS, header(b"{}", 2**64 - 1)), "not a safetensors file"),
    "header cut short": (text(WEIGHTS, header(b"{}", 1000)), "not a safetensors file"),
    "header that is deep": (text(WEIGHTS, header(DEEP.encode())), "not a safetensors file"),
    "header as list": (text(WEIGHTS, header(b"[]")), "not a safetensors file"),
    "header not UTF-8": (text(WEIGHTS, header(b'{"\xff": 1}')), "not a safetensors file"),
    "header with a tensor twice": (text(WEIGHTS, header(b'{"x": {}, "x": {}}')), "not a safetensors file"),
    "tensor as list": (text(WEIGHTS, published.weights({"x": []})), "not a safetensors file"),
    "tensor as null": (text(WEIGHTS, published.weights({"x": None})), "not a safetensors file"),
    "tensor without offsets": (text(WEIGHTS, published.weights({"x": {}})), "not a safetensors file"),
    "offsets as text": (text(WEIGHTS, tensor(data_offsets="ab")), "not a safetensors file"),
    "one offset": (text(WEIGHTS, tensor(data_offsets=[1])), "not a safetensors file"),
    "offsets as lists": (text(WEIGHTS, tensor(data_offsets=[[], []])), "not a safetensors file"),
    "offsets below zero": (text(WEIGHTS, tensor(data_offsets=[0, -5])), "not a safetensors file"),
    "offsets that are no whole numbers": (text(WEIGHTS, tensor(data_offsets=[0, 1.5])), "not a safetensors file"),
    "a zip with a pickle": (text(WEIGHTS, b"PK\x03\x04" + b"\0" * 60), "not a safetensors file"),
    "a pickle by another name": (text(WEIGHTS, b"\x80\x04\x95" + b"\0" * 60), "not a safetensors file"),
    "only a pickle": (
        lambda folder: [file.unlink() for file in (folder / "unet").glob("*.safetensors")],
        "is a pickle",
    ),
    "shards that are pickles": (text(SHARDED, '{"weight_map": {"x": "evil.bin"}}'), "evil.bin"),
    "shards outside": (text(SHARDED, '{"weight_map": {"x": "../../evil.safetensors"}}'), r"\.\./evil.safetensors"),
    "shards at the root": (text(SHARDED, '{"weight_map": {"x": "/evil.safetensors"}}'), "/evil.safetensors"),
    "shards as numbers": (text(SHARDED, '{"weight_map": {"x": 1}}'), "weight_map"),
    "shards as list": (text(SHARDED, '{"weight_map": []}'), "weight_map"),
    "shards as lists": (text(SHARDED, '{"weight_map": {"x": ["a.safetensors"]}}'), "weight_map"),
    "no shards": (text(SHARDED, '{"weight_map": {}}'), "weight_map"),
    "missing shards": (text(SHARDED, '{"weight_map": {"x": "gone.safetensors"}}'), "gone.safetensors is missing"),
    "missing shard map": (text(SHARDED, "{}"), "weight_map"),
    # Files of other kinds.
    "pipe as index": (instead(INDEX, os.mkfifo), "not a regular file"),
    "pipe as config": (instead(VAE, os.mkfifo), "not a regular file"),
    "pipe as weights": (instead(WEIGHTS, os.mkfifo), "not a regular file"),
    "pipe as defaults": (instead("defaults.json", os.mkfifo), "not a regular file"),
    "pipe as vocabulary": (instead("tokenizer/vocab.json", os.mkfifo), "not a regular file"),
    "device as index": (instead(INDEX, lambda file: file.symlink_to("/dev/zero")), "/dev/zero"),
    "device as weights": (instead(WEIGHTS, lambda file: file.symlink_to("/dev/zero")), "/dev/zero"),
    "folder as index": (instead(INDEX, Path.mkdir), "not a regular file"),
    "folder as config": (instead(VAE, Path.mkdir), "not a regular file"),
    "folder as weights": (instead(WEIGHTS, Path.mkdir), "not a regular file"),
    "folder as defaults": (instead("defaults.json", Path.mkdir), "not a regular file"),
    "file as part": (instead("unet", lambda file: file.write_text("x")), "unet"),
    "no part": (instead("unet", lambda file: None), "unet"),
    "empty part": (instead("unet", Path.mkdir), "config.json is missing"),
    "no tokenizer": (instead("tokenizer", Path.mkdir), "tokenizer"),
    "dangling link": (instead(UNET, lambda file: file.symlink_to("gone.json")), "is missing"),
    "dangling link as part": (instead("unet", lambda file: file.symlink_to("gone")), "unet"),
    "dangling link as defaults": (instead("defaults.json", lambda file: file.symlink_to("gone")), "is missing"),
    "link to itself": (instead(UNET, lambda file: file.symlink_to(file)), "cannot be read"),
    "link out of the cache": (instead("defaults.json", lambda file: file.symlink_to("/etc/passwd")), "/etc/passwd"),
    "link of a part out of the cache": (instead("unet", lambda file: file.symlink_to("/etc")), "/etc"),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_folder_is_refused_with_one_sentence(attack: str, tmp_path: Path) -> None:
    change, expected = HOSTILE[attack]
    folder = published.write(NAME, tmp_path / NAME)
    change(folder)
    with pytest.raises(UnusableModel, match=expected) as refused:
        inspect(tmp_path, NAME)
    sentence = str(refused.value)
    assert str(folder) in sentence
    assert sentence.endswith(".")
    assert sentence.isprintable()
    assert len(sentence) < 1000


IGNORED: dict[str, Change] = {
    "python beside the index": text("pipeline.py", "raise SystemExit('the folder ran code')"),
    "python beside a part": text("unet/unet.py", "raise SystemExit('the folder ran code')"),
    "pickles beside the weights": text("vae/diffusion_pytorch_model.fp16.bin", b"\x80\x04"),
    "pipe beside the files": instead("notes.json", os.mkfifo),
    "pipe beside a part": instead("unet/notes.json", os.mkfifo),
    "broken JSON beside the files": text("notes.json", DEEP),
    "broken weights beside the part's own": text("unet/other.safetensors", b"x"),
    "link beside the files": instead("secret.json", lambda file: file.symlink_to("/etc/passwd")),
    "link in a circle": instead("again", lambda file: file.symlink_to(".")),
    "Infinity in a scheduler": text(
        "scheduler/scheduler_config.json", '{"_class_name": "PNDMScheduler", "lambda_min_clipped": -Infinity}'
    ),
    "whole number as fraction": fields(UNET, sample_size=[64, 64]),
}


@pytest.mark.parametrize("kind", IGNORED)
def test_a_file_that_no_part_needs_is_never_read(kind: str, tmp_path: Path) -> None:
    before = inspect(tmp_path, published.write(NAME, tmp_path / NAME).name)
    IGNORED[kind](tmp_path / NAME)
    assert inspect(tmp_path, NAME).facts == before.facts


VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 10**400, "", "\ud800", "x" * 10**5),
    *([], {}, [[]], [None], {"a": {"b": []}}, ["transformers", "AutoModel"]),
)


def refusal(cache: Path, model: str) -> str:
    """What the check says about the folder; nothing if it passes and its capabilities can be sent."""
    try:
        folder = inspect(cache, model)
    except UnusableModel as error:
        return str(error)
    assert describe(folder, Settings(model_name=model)).model_dump_json()  # type: ignore[call-arg]
    return ""


@pytest.mark.parametrize(
    ("model", "files"),
    [
        (NAME, ("*.json", "scheduler/*.json", "unet/*.json", "vae/*.json")),
        ("FLUX.1-dev", (INDEX, "transformer/*.json")),
    ],
)
def test_any_value_of_any_field_passes_or_gets_one_sentence(model: str, files: tuple[str, ...], tmp_path: Path) -> None:
    folder = published.write(model, tmp_path / model)
    (folder / "defaults.json").write_text(json.dumps({"width": 512, "height": 512, "steps": 30, "latent_rgb": None}))
    for file in sorted(path for pattern in files for path in folder.glob(pattern)):
        document = json.loads(file.read_text())
        for field in document:
            for value in VALUES:
                file.write_text(json.dumps(document | {field: value}))
                sentence = refusal(tmp_path, model)
                assert not sentence or (str(folder) in sentence and sentence.isprintable()), (file, field, value)
        file.write_text(json.dumps(document))
    assert refusal(tmp_path, model) == ""
