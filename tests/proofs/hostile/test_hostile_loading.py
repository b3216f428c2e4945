"""What a model folder tells the libraries to do beside loading its weights is not done."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from config.settings import Settings
from runners import OFFLINE
from runners.families import UnusableModel
from runners.model_folder import inspect
from tests.proofs.hostile.test_hostile_folders import fields, text
from tests.support.published import PUBLISHED, Document

Change = Callable[[Path], object]
KERNEL = "kernels-community/vllm-flash-attn3"
RUNS = "raise SystemExit('the folder ran code')"


@pytest.fixture(scope="module")
def minis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tools.miniatures.build import build_minis

    into = tmp_path_factory.mktemp("model_cache")
    build_minis(into)
    return into


@pytest.fixture(autouse=True)
def traps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a hostile folder may reach ends the test."""
    import diffusers.pipelines.pipeline_loading_utils
    import diffusers.utils.dynamic_modules_utils
    import torch
    import transformers.dynamic_module_utils
    import transformers.integrations.hub_kernels

    def trap(name: str) -> Callable[..., None]:
        def reached(*_: Any, **__: Any) -> None:
            pytest.fail(f"the folder reached {name}")

        return reached

    monkeypatch.setattr(torch, "load", trap("torch.load"))
    for module, names in {
        diffusers.utils.dynamic_modules_utils: ("get_class_from_dynamic_module", "get_cached_module_file"),
        diffusers.pipelines.pipeline_loading_utils: ("get_class_from_dynamic_module",),
        transformers.dynamic_module_utils: ("get_class_from_dynamic_module", "get_cached_module_file"),
        transformers.integrations.hub_kernels: ("load_and_register_attn_kernel", "get_kernel", "lazy_load_kernel"),
    }.items():
        for name in names:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, trap(name))


def load(cache: Path, model: str) -> Any:
    from runners.loading import load

    return load(inspect(cache, model), Settings(runner_device="cpu"))  # type: ignore[call-arg]


def copied(minis: Path, into: Path, model: str, *changes: Change) -> Path:
    shutil.copytree(minis / model, into / model)
    for change in changes:
        change(into / model)
    return into


CODE: Document = {
    "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]},
    "trust_remote_code": True,
    "custom_pipeline": "evil",
    "_name_or_path": "/etc",
    "name_or_path": "/etc",
}
KERNELS: Document = {
    "attn_implementation": KERNEL,
    "_attn_implementation": KERNEL,
    "_attn_implementation_internal": KERNEL,
    "_attn_implementation_autoset": True,
    "experts_implementation": KERNEL,
    "_experts_implementation": KERNEL,
    "use_kernels": True,
    "kernel_config": {"RMSNorm": KERNEL},
}
QUANTIZED: Document = {
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_compute_dtype": "evil"}
}
CONFIGS = ("unet/config.json", "vae/config.json", "text_encoder/config.json")
PICKLES = (
    "unet/diffusion_pytorch_model.bin",
    "text_encoder/pytorch_model.bin",
    "text_encoder/pytorch_model.bin.index.json",
    "tokenizer/vocab.pkl",
    "loras/evil.bin",
    "learned_embeds.bin",
    "model.ckpt",
)
IGNORED: dict[str, tuple[Change, ...]] = {
    "code": (
        *(fields(file, **CODE) for file in CONFIGS),
        fields("tokenizer/tokenizer_config.json", **CODE),
        fields("scheduler/scheduler_config.json", **CODE),
        *(text(file, RUNS) for file in ("evil.py", "unet/evil.py", "text_encoder/evil.py", "tokenizer/evil.py")),
    ),
    "kernels": (
        *(fields(file, **KERNELS) for file in CONFIGS),
        fields("text_encoder/config.json", text_config=KERNELS, vision_config=KERNELS),
    ),
    "kernels of one kind": (fields("text_encoder/config.json", attn_implementation=KERNEL),),
    "quantization": tuple(fields(file, **QUANTIZED) for file in CONFIGS),
    "types": (fields("text_encoder/config.json", dtype="evil", torch_dtype="evil", model_type="evil"),),
    "architecture": (fields("text_encoder/config.json", architectures=["Evil"], transformers_version="99.0"),),
    "tokenizer": (
        fields(
            "tokenizer/tokenizer_config.json",
            **dict.fromkeys(("tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file"), "/etc/passwd"),
            tokenizer_class="Evil",
            processor_class="Evil",
            init_inputs=["/etc/passwd"],
            chat_template="{{ evil }}",
        ),
        text("tokenizer/special_tokens_map.json", json.dumps({"vocab_file": "/etc/passwd", "auto_map": {}})),
        text("tokenizer/config.json", json.dumps(CODE | {"model_type": "evil"})),
        text("tokenizer/chat_template.jinja", "{{ evil }}"),
    ),
    "pickles": tuple(text(file, b"\x80\x04K\x01.") for file in PICKLES),
    "pickles of a variant": (text("vae/diffusion_pytorch_model.fp16.bin", b"\x80\x04K\x01."),),
    "generation": (text("text_encoder/generation_config.json", json.dumps({"custom_generate": "evil"})),),
    "adapter": (
        text(
            "unet/adapter_config.json", json.dumps({"peft_type": "LORA", "auto_mapping": {"base_model_class": "evil"}})
        ),
        text("text_encoder/adapter_config.json", json.dumps({"base_model_name_or_path": "/etc", "peft_type": "LORA"})),
    ),
}


@pytest.mark.parametrize("attack", IGNORED)
def test_a_model_is_loaded_without_what_its_folder_asks_beside(attack: str, minis: Path, tmp_path: Path) -> None:
    model = load(copied(minis, tmp_path, "sd-mini", *IGNORED[attack]), "sd-mini")
    pipe = model.family.pipe
    assert {type(part).__name__ for part in pipe.components.values() if part is not None} == {
        "AutoencoderKL",
        "CLIPTextModel",
        "CLIPTokenizer",
        "DDIMScheduler",
        "UNet2DConditionModel",
    }
    assert pipe.text_encoder.config._attn_implementation in ("sdpa", "eager")
    told = json.dumps([pipe.unet.config, pipe.vae.config, pipe.scheduler.config, pipe.text_encoder.config.to_dict()])
    assert not {word for word in ("evil", "kernels-community", "quantization_config", "/etc") if word in told}
    assert not set(pipe.tokenizer.init_kwargs) & {"auto_map", "chat_template", "processor_class", "trust_remote_code"}


@pytest.mark.parametrize("file", ["vae", "text_encoder", "safety_checker"])
def test_a_nested_pipeline_never_reaches_a_pickle(file: str, minis: Path, tmp_path: Path) -> None:
    nested = {"_class_name": "DiffusionPipeline", "unet": ["diffusers", "UNet2DModel"]}
    copied(minis, tmp_path, "sd-mini", fields("model_index.json", **{file: ["diffusers", "DiffusionPipeline"]}))
    for name, content in {
        "model_index.json": json.dumps(nested).encode(),
        "unet/config.json": json.dumps({"_class_name": "UNet2DModel"}).encode(),
        "unet/diffusion_pytorch_model.bin": b"\x80\x04K\x01.",
    }.items():
        (tmp_path / "sd-mini" / file / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sd-mini" / file / name).write_bytes(content)
    with pytest.raises(UnusableModel, match="allowed are"):
        load(tmp_path, "sd-mini")


BROKEN: dict[str, tuple[Change, ...]] = {
    "settings of another type": (fields("unet/config.json", layers_per_block="two"),),
    "unknown block": (fields("unet/config.json", down_block_types=["os.system", "DownBlock2D"]),),
    "dots in a block": (fields("vae/config.json", up_block_types=["models.vae.Evil"] * 3),),
    "division by zero": (fields("unet/config.json", norm_num_groups=0),),
    "heads": (fields("text_encoder/config.json", num_attention_heads=0),),
    "activation": (fields("text_encoder/config.json", hidden_act="os.system"),),
    "another size": (fields("text_encoder/config.json", hidden_size=64),),
    "no timesteps": (fields("scheduler/scheduler_config.json", num_train_timesteps=-1),),
    "no betas": (fields("scheduler/scheduler_config.json", beta_schedule="evil"),),
    "a tokenizer that is no tokenizer": (text("tokenizer/tokenizer.json", "{}"),),
    "a tokenizer of nothing": (text("tokenizer/tokenizer.json", '{"model": {"type": "BPE", "vocab": 7}}'),),
    "a tokenizer that is deep": (text("tokenizer/tokenizer.json", '{"a":' * 5000 + "1" + "}" * 5000),),
    "a tokenizer that is not UTF-8": (text("tokenizer/tokenizer.json", b"\xff\xfe"),),
    "tokens of another type": (fields("tokenizer/tokenizer_config.json", added_tokens_decoder={"x": 7}),),
    "version": (fields("unet/config.json", _diffusers_version="not a version"),),
}


@pytest.mark.parametrize("attack", BROKEN)
def test_a_model_that_the_libraries_refuse_ends_with_one_sentence(attack: str, minis: Path, tmp_path: Path) -> None:
    copied(minis, tmp_path, "sd-mini", *BROKEN[attack])
    with pytest.raises(UnusableModel) as refused:
        load(tmp_path, "sd-mini")
    sentence = str(refused.value)
    assert str(tmp_path / "sd-mini") in sentence
    assert sentence.isprintable()
    assert len(sentence) < 1000


def lora(**more: Any) -> Change:
    """A change that adds the LoRA `evil`, a copy of `night` with more metadata."""

    def change(folder: Path) -> None:
        metadata = {f"unet.{name}": value for name, value in ({"r": 8, "lora_alpha": 8} | more).items()}
        save_file(
            load_file(folder / "loras/night.safetensors"),
            folder / "loras/evil.safetensors",
            {"lora_adapter_metadata": json.dumps(metadata)},
        )

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lora(megatron_config={"a": 1}, megatron_core="evil_module"), "sets unet.megatron_co"),
        (lora(auto_mapping={"parent_library": "evil_module"}), "sets unet.auto_mapping"),
        (lora(init_lora_weights="eva"), "sets unet.init_lora_weights"),
        (lora(target_modules=["nothing"]), "evil.safetensors cannot be used"),
        (lora(r="eight"), "evil.safetensors cannot be used"),
        (text("loras/evil.safetensors", b"\x80\x04K\x01."), "is not a safetensors file"),
        (lambda folder: (folder / "loras/evil.safetensors").symlink_to("/etc/passwd"), "not in the model cache"),
        (lambda folder: (folder / "loras/evil.safetensors").mkdir(), "is not a regular file"),
        (lambda folder: shutil.copy(folder / "loras/night.safetensors", folder / "loras/evil\n.safetensors"), "a name"),
    ],
)
def test_a_hostile_lora_is_not_offered(
    change: Change, sentence: str, minis: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(copied(minis, tmp_path, "sd-mini", change), "sd-mini")
    assert model.adapters.names == ("night", "outline")
    assert sentence in caplog.text


def test_a_lora_with_its_ranks_as_metadata_is_offered(minis: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    from tools.miniatures.train.sd import LORA_LAYERS

    written = LoraConfig(r=8, lora_alpha=4, target_modules=LORA_LAYERS).to_dict()
    whole = {name: sorted(value) if isinstance(value, set) else value for name, value in written.items()}
    model = load(copied(minis, tmp_path, "sd-mini", lora(**whole)), "sd-mini")
    assert model.adapters.names == ("evil", "night", "outline")
    assert model.family.pipe.unet.peft_config["lora_0"].lora_alpha == 4


@pytest.mark.parametrize(
    ("model", "published"),
    [
        ("sd-mini", "stable-diffusion-v1-5"),
        ("sd-mini", "stable-diffusion-v1-4"),
        ("sd-mini", "stable-diffusion-2-1"),
        ("flux-mini", "FLUX.1-dev"),
        ("flux-mini", "FLUX.1-schnell"),
    ],
)
def test_a_model_with_a_published_index_is_loaded(model: str, published: str, minis: Path, tmp_path: Path) -> None:
    documents = {
        name: document
        for name, document in PUBLISHED[published].items()
        if name.startswith(("model_index", "feature_extractor/", "safety_checker/", "scheduler/"))
    }
    copied(minis, tmp_path, model)
    for name, document in documents.items():
        (tmp_path / model / name).parent.mkdir(exist_ok=True)
        (tmp_path / model / name).write_text(json.dumps(document))
    pipe = load(tmp_path, model).family.pipe
    assert type(pipe.scheduler).__name__ == PUBLISHED[published]["scheduler/scheduler_config.json"]["_class_name"]
    assert getattr(pipe, "safety_checker", None) is None


def test_the_libraries_are_offline_before_they_are_imported() -> None:
    code = f"""
import os
os.environ.update(HF_HUB_OFFLINE="0", USE_HUB_KERNELS="1", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
import bentos.runner
import runners.loading
import diffusers.utils.constants, huggingface_hub.constants, transformers.integrations.hub_kernels as kernels
assert huggingface_hub.constants.HF_HUB_OFFLINE and huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY
assert diffusers.utils.constants.DIFFUSERS_DISABLE_REMOTE_CODE
assert kernels._TRANSFORMERS_USE_HUB_KERNELS == "OFF"
assert {{name: os.environ[name] for name in {sorted(OFFLINE)}}} == {OFFLINE}
assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=120, text=True)
    assert ran.returncode == 0, ran.stderr
