"""Model folders as their publishers wrote them: every JSON file that a runner reads, with weight files of one byte."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Document = dict[str, Any]

_SD_1_5_INDEX: Document = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.6.0",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_SD_2_1_INDEX: Document = _SD_1_5_INDEX | {
    "_diffusers_version": "0.8.0",
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "requires_safety_checker": False,
}
_FLUX_INDEX: Document = {
    "_class_name": "FluxPipeline",
    "_diffusers_version": "0.30.0.dev0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_CLIP_L: Document = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}
_T5_XXL: Document = {
    "_name_or_path": "google/t5-v1_1-xxl",
    "architectures": ["T5EncoderModel"],
    "classifier_dropout": 0.0,
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 24,
    "num_heads": 64,
    "num_layers": 24,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.3",
    "use_cache": True,
    "vocab_size": 32128,
}


def _token(content: str) -> Document:
    return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": True, "rstrip": False} | {
        "single_word": False
    }


_CLIP_TOKENS: Document = {
    "add_prefix_space": False,
    "bos_token": _token("<|startoftext|>"),
    "do_lower_case": True,
    "eos_token": _token("<|endoftext|>"),
    "errors": "replace",
    "model_max_length": 77,
    "name_or_path": "openai/clip-vit-large-patch14",
    "pad_token": "<|endoftext|>",
    "special_tokens_map_file": "./special_tokens_map.json",
    "tokenizer_class": "CLIPTokenizer",
    "unk_token": _token("<|endoftext|>"),
}
_PNDM: Document = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
_UNET: Document = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
_VAE: Document = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
_FLOW_EULER: Document = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.30.0.dev0",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}
_FLUX_TRANSFORMER: Document = {
    "_class_name": "FluxTransformer2DModel",
    "_diffusers_version": "0.30.0.dev0",
    "_name_or_path": "../checkpoints/flux-dev/transformer",
    "attention_head_dim": 128,
    "guidance_embeds": True,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}
_FLUX_VAE: Document = _VAE | {
    "_diffusers_version": "0.30.0.dev0",
    "_name_or_path": "../checkpoints/flux-dev",
    "force_upcast": True,
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}
_SD_1_5: dict[str, Document] = {
    "model_index.json": _SD_1_5_INDEX,
    "scheduler/scheduler_config.json": _PNDM,
    "text_encoder/config.json": _CLIP_L,
    "tokenizer/tokenizer_config.json": _CLIP_TOKENS,
    "tokenizer/special_tokens_map.json": {
        name: _token("<|endoftext|>") for name in ("bos_token", "eos_token", "unk_token")
    }
    | {"pad_token": "<|endoftext|>"},
    "tokenizer/vocab.json": {"<|startoftext|>": 49406, "<|endoftext|>": 49407},
    "unet/config.json": _UNET,
    "vae/config.json": _VAE,
    "feature_extractor/preprocessor_config.json": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224},
    "safety_checker/config.json": {"_name_or_path": "CompVis/stable-diffusion-safety-checker", "model_type": "clip"},
}
_FLUX: dict[str, Document] = {
    "model_index.json": _FLUX_INDEX,
    "scheduler/scheduler_config.json": _FLOW_EULER,
    "text_encoder/config.json": _CLIP_L | {"torch_dtype": "bfloat16"},
    "text_encoder_2/config.json": _T5_XXL,
    "tokenizer/tokenizer_config.json": _CLIP_TOKENS,
    "tokenizer/vocab.json": {"<|startoftext|>": 49406, "<|endoftext|>": 49407},
    "tokenizer_2/tokenizer_config.json": {"eos_token": "</s>", "extra_ids": 100, "tokenizer_class": "T5Tokenizer"},
    "tokenizer_2/tokenizer.json": {"version": "1.0", "added_tokens": [], "model": {"type": "Unigram"}},
    "transformer/config.json": _FLUX_TRANSFORMER,
    "vae/config.json": _FLUX_VAE,
}
PUBLISHED: dict[str, dict[str, Document]] = {
    "stable-diffusion-v1-5": _SD_1_5,
    "stable-diffusion-v1-4": _SD_1_5
    | {
        "model_index.json": _SD_1_5_INDEX
        | {"_diffusers_version": "0.2.2", "feature_extractor": ["transformers", "CLIPFeatureExtractor"]}
    },
    "stable-diffusion-v1-5 saved again": _SD_1_5
    | {
        "model_index.json": _SD_1_5_INDEX
        | {"_name_or_path": "stable-diffusion-v1-5/stable-diffusion-v1-5", "image_encoder": [None, None]}
        | {"_diffusers_version": "0.34.0", "requires_safety_checker": True}
    },
    "stable-diffusion-2-1": _SD_1_5
    | {
        "model_index.json": _SD_2_1_INDEX,
        "scheduler/scheduler_config.json": _PNDM | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
        "unet/config.json": _UNET
        | {"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "sample_size": 96}
        | {"dual_cross_attention": False, "num_class_embeds": None, "use_linear_projection": True},
    },
    "FLUX.1-dev": _FLUX,
    "FLUX.1-schnell": _FLUX
    | {
        "scheduler/scheduler_config.json": _FLOW_EULER | {"shift": 1.0, "use_dynamic_shifting": False},
        "transformer/config.json": _FLUX_TRANSFORMER | {"guidance_embeds": False},
    },
}
_SHARDS = {"FLUX.1-dev": {"transformer": 3, "text_encoder_2": 2}, "FLUX.1-schnell": {"transformer": 3}}


def weights(header: Mapping[str, Any] | None = None) -> bytes:
    """A safetensors file of one tensor of one byte, or with another header."""
    text = json.dumps(
        {"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}} if header is None else header
    ).encode()
    return struct.pack("<Q", len(text)) + text + b"\0"


def write(model: str, folder: Path) -> Path:
    """Write the published folder of the model into `folder`, beside the files that its publishers also ship."""
    for name, document in PUBLISHED[model].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(document, indent=2))
    for config in sorted(folder.glob("*/config.json")):
        base = "diffusion_pytorch_model" if "_class_name" in json.loads(config.read_text()) else "model"
        shards = _SHARDS.get(model, {}).get(config.parent.name, 0)
        names = [f"{base}-{shard + 1:05}-of-{shards:05}.safetensors" for shard in range(shards)]
        for name in names or [f"{base}.safetensors", f"{base}.fp16.safetensors"]:
            (config.parent / name).write_bytes(weights())
        if names:
            index = {"metadata": {"total_size": shards}, "weight_map": {f"x{n}": name for n, name in enumerate(names)}}
            (config.parent / f"{base}.safetensors.index.json").write_text(json.dumps(index))
        (config.parent / f"{base}.bin").write_bytes(b"\x80\x04a pickle beside the weights")
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    if (folder / "tokenizer_2").is_dir():
        (folder / "tokenizer_2/spiece.model").write_bytes(b"x")
    (folder / "README.md").write_text("A model.")
    (folder / "v1-5-pruned.ckpt").write_bytes(b"\x80\x04a pickle")
    return folder
