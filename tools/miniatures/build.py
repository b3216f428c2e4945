"""Builds sd-mini and flux-mini with random weights, in seconds: the real architectures, for tests that do not look at
the images. `python -m tools.miniatures.build [--into FOLDER]` builds those that are missing."""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from types import ModuleType

import torch
from diffusers import AutoencoderKL
from diffusers.utils import logging
from peft import LoraConfig, get_peft_model_state_dict

from tools.miniatures.train import flux, sd
from tools.miniatures.train.lora import RANK
from tools.miniatures.train.vae import SHAPES, VaeTrainee

LORAS = ("night", "outline")


def build_minis(into: Path) -> list[str]:
    """Build the miniatures that the folder `into` lacks, and return their names."""
    logging.set_verbosity_error()
    into.mkdir(parents=True, exist_ok=True)
    made = [name for name in SHAPES if not (into / name / "model_index.json").exists()]
    for seed, name in enumerate(made):
        torch.manual_seed(seed)
        vae = VaeTrainee(*SHAPES[name]).vae.eval()
        if name == "flux-mini":
            vae.register_to_config(shift_factor=0.1)
        # Built in a temporary folder and then moved, so that a build that is cut off leaves no half model.
        with tempfile.TemporaryDirectory(prefix=".mini-", dir=into) as temporary:
            _write(sd if name == "sd-mini" else flux, vae, Path(temporary) / name)
            shutil.rmtree(into / name, ignore_errors=True)
            (Path(temporary) / name).rename(into / name)
    return made


def _write(family: ModuleType, vae: AutoencoderKL, folder: Path) -> None:
    pipe = family.new_pipeline(vae)
    pipe.save_pretrained(folder, safe_serialization=True)
    (folder / "defaults.json").write_text(json.dumps(family.DEFAULTS, indent=2) + "\n")
    part, layers = family.PART, family.LORA_LAYERS
    denoiser = getattr(pipe, part)
    for name in LORAS:
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers, init_lora_weights=False)
        denoiser.add_adapter(config, adapter_name=name)
        weights = {
            key: value.contiguous() for key, value in get_peft_model_state_dict(denoiser, adapter_name=name).items()
        }
        pipe.save_lora_weights(folder / "loras", **{f"{part}_lora_layers": weights}, weight_name=f"{name}.safetensors")
        denoiser.delete_adapters(name)


def main() -> None:
    """Build the missing miniatures, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=Path("model_cache"))
    made = build_minis(parser.parse_args().into)
    print(f"made {', '.join(made)}" if made else "nothing to make")


if __name__ == "__main__":
    main()
