"""`python -m tools.miniatures.train sd-mini` trains that miniature from random weights into model_cache/sd-mini.

It can be stopped at any time: the same command continues from the last checkpoint, which lies in the work folder.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging

from tools.miniatures.train import flux, lora, sd
from tools.miniatures.train.data import latents
from tools.miniatures.train.device import DEVICE
from tools.miniatures.train.judge import trained_judge
from tools.miniatures.train.loop import Trainee, train
from tools.miniatures.train.report import folder_bytes, latent_rgb, report
from tools.miniatures.train.vae import trained_vae

HOME = Path(__file__).resolve().parents[3] / "model_cache"


def main() -> None:
    """Train one miniature (or the judge), as the command line says, and print its measured table."""
    parser = argparse.ArgumentParser(prog="python -m tools.miniatures.train", description=__doc__)
    parser.add_argument("model", choices=("sd-mini", "flux-mini", "judge"))
    parser.add_argument(
        "--work", type=Path, default=Path(".local/train"), help="checkpoints and sample sheets (default %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=HOME, help="where the finished folder goes (default: model_cache)")
    parser.add_argument(
        "--threads", type=int, default=1, help="one thread per process and one process per model is quickest"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    if arguments.model == "judge":
        trained_judge(arguments.work / "judge")
        return
    build(arguments.model, arguments.work / arguments.model, arguments.out / arguments.model)


def build(model: str, work: Path, out: Path) -> None:
    """All stages of one miniature: the VAE, the text encoders, the denoiser (for flux then its guidance), the LoRAs,
    the folder and its measured table. A stage that an earlier run finished is only loaded."""
    vae = trained_vae(model, work)
    data = latents(vae, work, "latents")
    family = sd if model == "sd-mini" else flux
    pipe = family.new_pipeline(vae).to(DEVICE)
    new_trainee = sd.SdTrainee if family is sd else flux.FluxTrainee
    family.learn_to_read(pipe, work)
    base = new_trainee(pipe, data, family.STEPS)
    train(base, work, name="base", steps=family.STEPS, rate=family.RATE, seed=5, muon=True)
    if model == "flux-mini":
        train(
            flux.GuidedTrainee(pipe, data), work, name="guided", steps=flux.GUIDED_STEPS, rate=flux.GUIDED_RATE, seed=3
        )
    export = work / "export"
    shutil.rmtree(export, ignore_errors=True)

    def styled_trainee(**styles: bool) -> Trainee:
        styled_data = latents(vae, work, "-".join(("latents", *styles)), singles=1200, pairs=300, **styles)
        return family.styled(pipe, styled_data)

    lora.train_loras(pipe, family.PART, family.LORA_LAYERS, styled_trainee, work, export / "loras")
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.half()
    pipe.save_pretrained(export, safe_serialization=True)
    (export / "defaults.json").write_text(
        json.dumps(family.DEFAULTS | {"latent_rgb": latent_rgb(vae.float())}, indent=2) + "\n"
    )
    finished = DiffusionPipeline.from_pretrained(export, local_files_only=True, dtype=torch.float32).to(DEVICE)
    table = report(finished, family.painter, export, work)
    print(json.dumps(table, indent=2), f"\n{folder_bytes(export) / 1e6:.1f} MB")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(export, out)
    for file in out.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors lets only their owner read them, but a container runs as another user


if __name__ == "__main__":
    main()
