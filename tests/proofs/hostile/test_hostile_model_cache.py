"""What `make build` puts into a Bento, which is handed on: nothing that only lies near a model or the code."""

import json
import os
import shutil
from pathlib import Path

import pathspec
import pytest
import yaml

from bentos import build

SECRET = "AWS_SECRET_ACCESS_KEY=secret"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "safety_checker": [None, None],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
}
READ = {
    "model_index.json",
    "defaults.json",
    "README.md",
    "LICENSE",
    "NOTICE.txt",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "tokenizer/spiece.model",
    "loras/night.safetensors",
}
"""Files that loading reads or that a licence asks to hand on. The feature extractor was not downloaded."""
NEAR = {
    ".env",
    ".git/config",
    ".cache/huggingface/token",
    "keys.jsonl",
    "flux1-dev.safetensors",
    "notes.txt",
    "unet/.env",
    "unet/diffusion_pytorch_model.bin",
    "unet/modeling.py",
    "unet/.config.json",
    "unet/nested/config.json",
    "safety_checker/config.json",
    "vae/config.json",
    "loras/notes.txt",
    "loras/.night.safetensors",
    "loras/nested/x.safetensors",
    "LICENSE.d/secret.txt",
}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A model cache with one model, and files beside it that are nobody's business."""
    cache = tmp_path / "cache"
    for name in READ | NEAR:
        file = cache / "toy" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(INDEX) if name == "model_index.json" else SECRET)
    (tmp_path / "secret.safetensors").write_text(SECRET)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "config.json").write_text(SECRET)
    return cache


def staged(cache: Path, model: str = "toy") -> set[str]:
    """The files of the model that go into its Bento. Each is a file of its own, no link."""
    with build.staged(cache, model) as folder:
        files = [path for path in (folder / "model_cache" / model).rglob("*") if not path.is_dir()]
        assert not [path for path in folder.rglob("*") if path.is_symlink()]
        return {str(path.relative_to(folder / "model_cache" / model)) for path in files}


def rewrite_index(cache: Path, **parts: object) -> None:
    (cache / "toy" / "model_index.json").write_text(json.dumps({**INDEX, **parts}))


def test_a_bento_holds_what_loading_reads_and_nothing_that_lies_beside_it(cache: Path) -> None:
    assert staged(cache) == READ


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "../../../secret.safetensors"),
        ("text_encoder/model.fp16.safetensors", "/etc/passwd"),
        ("loras/night.safetensors", "../../../secret.safetensors"),
        ("README.md", "../../secret.safetensors"),
        ("model_index.json", "../../secrets/config.json"),
        ("defaults.json", "/proc/self/environ"),
        ("unet/config.json", "../.env"),
        ("unet/config.json", "../.git/config.json"),
        ("tokenizer", "../../secrets"),
        ("loras", "../../secrets"),
        ("unet/config.json", "missing.json"),
        ("unet/config.json", "config.json"),
    ],
)
def test_a_link_that_leads_elsewhere_is_one_sentence(cache: Path, name: str, target: str) -> None:
    link = cache / "toy" / name
    shutil.rmtree(link) if link.is_dir() else link.unlink()
    (cache / "toy" / ".git" / "config.json").write_text(SECRET)
    (cache.parent / "secrets" / "night.safetensors").write_text(SECRET)
    link.symlink_to(target)
    with pytest.raises(build.UnusableFolder, match=rf"toy/{name.split('/')[0]}.* (link|JSON)"):
        staged(cache)


def test_a_model_folder_that_is_a_link_out_of_the_cache_is_one_sentence(cache: Path, tmp_path: Path) -> None:
    (cache / "toy").rename(tmp_path / "elsewhere")
    (cache / "toy").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(build.UnusableFolder, match=r"toy is a link .* set MODEL_CACHE_DIR"):
        staged(cache)


def test_a_link_inside_the_cache_is_resolved(cache: Path) -> None:
    (cache / "other").mkdir()
    (cache / "toy" / "unet").rename(cache / "other" / "unet.v2")
    (cache / "toy" / "unet").symlink_to("../other/unet.v2")
    (cache / "toy-1.5").symlink_to("toy")
    assert staged(cache) == READ
    assert staged(cache, "toy-1.5") == READ


@pytest.mark.parametrize("place", ["cache", "cache/.hub", "hub"])
def test_a_snapshot_of_the_hub_is_resolved_to_its_blobs_alone(cache: Path, tmp_path: Path, place: str) -> None:
    hub = tmp_path / place / "models--someone--toy"
    snapshot = hub / "snapshots" / "0123abc"
    (hub / "blobs").mkdir(parents=True)
    for number, name in enumerate(sorted(READ)):
        (hub / "blobs" / f"{number:040x}").write_bytes((cache / "toy" / name).read_bytes())
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (2 + name.count("/"))
        (snapshot / name).symlink_to(f"{up}blobs/{number:040x}")
    (cache / "hub-1.5").symlink_to(snapshot)
    assert staged(cache, "hub-1.5") == READ

    (snapshot / "unet" / "config.json").unlink()
    (snapshot / "unet" / "config.json").symlink_to("../../../blobs/../../../secrets/config.json")
    with pytest.raises(build.UnusableFolder, match="is a link"):
        staged(cache, "hub-1.5")


@pytest.mark.parametrize("part", ["..", "../other", "/etc", ".git", "unet/nested", "a\\b", "", ".", "a\nb"])
def test_a_part_whose_name_is_a_path_is_one_sentence(cache: Path, part: str) -> None:
    rewrite_index(cache, **{part: ["diffusers", "UNet2DConditionModel"]})
    with pytest.raises(build.UnusableFolder, match="names a part"):
        staged(cache)


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, '"unet"', "\xff", "{"])
def test_a_broken_index_is_one_sentence(cache: Path, text: str) -> None:
    (cache / "toy" / "model_index.json").write_text(text, encoding="latin-1")
    with pytest.raises(build.UnusableFolder, match="is not a JSON object"):
        staged(cache)


@pytest.mark.parametrize("name", ["unet/config.json", "model_index.json", "loras/pipe.safetensors"])
def test_a_file_that_is_no_file_is_one_sentence(cache: Path, name: str) -> None:
    (cache / "toy" / name).unlink(missing_ok=True)
    os.mkfifo(cache / "toy" / name)
    with pytest.raises(build.UnusableFolder, match=rf"{name} is neither a file nor a folder"):
        staged(cache)


def test_a_hidden_folder_is_no_model(cache: Path) -> None:
    (cache / "toy").rename(cache / ".toy")
    assert build.model_folders(cache) == []


def test_the_code_in_a_runners_bento_is_code_alone(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*build.RUNNER_ROOMS, "bentos", "requirements"):
        shutil.copytree(build.ROOT / name, tmp_path / "copy" / name)
    for name in (
        "config/.env",
        "runners/keys.jsonl",
        "runners/families/.git/config",
        "tasks/.x.py",
        "tasks/secret.txt",
    ):
        (tmp_path / "copy" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "copy" / name).write_text(SECRET)
    (tmp_path / "copy" / "tasks" / "linked.py").symlink_to(tmp_path / "secret.safetensors")
    monkeypatch.setattr(build, "ROOT", tmp_path / "copy")
    with build.staged(cache, "toy") as folder:
        code = [path for path in folder.rglob("*") if path.is_file() and "model_cache" not in path.parts]
        assert not [path for path in code if SECRET in path.read_text()]
        assert {path.suffix for path in code} == {".py", ".txt", ".yaml"}


@pytest.mark.parametrize(
    "name",
    [
        ".env",
        ".git/config",
        ".local/s3/credentials",
        ".local/kafka/client.properties",
        "keys.jsonl",
        "logs/ai_image_gen.gateway.log",
        "functions/.env",
        "functions/api/.git/config",
        "functions/api/.hidden.py",
        "functions/.local/x.py",
        "functions/api/keys.jsonl",
        "functions/api/tls.pem",
        "config/.env",
        "config/secrets.json",
        "tasks/.x.py",
        "adapters/view.sqlite",
        "bentos/.env",
    ],
)
def test_no_secret_of_the_project_goes_into_the_gateways_bento(name: str) -> None:
    bentofile = yaml.safe_load((build.ROOT / "bentofile.yaml").read_text())
    included, excluded = (
        pathspec.PathSpec.from_lines("gitignore", bentofile.get(key, ())) for key in ("include", "exclude")
    )
    assert included.match_file("functions/api/app.py")
    assert not excluded.match_file("functions/api/app.py")
    assert not included.match_file(name) or excluded.match_file(name)
