"""What can make a model faster, each a setting, all off by default, each said in the card and in the picture."""

from typing import Any

from config.settings import Settings

_DENOISER = {"FluxPipeline": "transformer", "StableDiffusionPipeline": "unet"}


def load_options(class_name: str, settings: Settings) -> dict[str, Any]:
    """Options of `from_pretrained`: weights quantized by optimum-quanto while they are loaded."""
    if settings.acceleration_quantization == "none":
        return {}
    from diffusers import PipelineQuantizationConfig, QuantoConfig

    config = QuantoConfig(weights_dtype=settings.acceleration_quantization)
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping={_DENOISER[class_name]: config})}


def apply(pipe: Any, settings: Settings) -> dict[str, str]:
    """Set what is set on a loaded pipeline, and say what is in force. Raises ValueError for an attention backend that
    is not there."""
    denoiser = getattr(pipe, _DENOISER[type(pipe).__name__])
    if settings.acceleration_attention:
        denoiser.set_attention_backend(settings.acceleration_attention)
    if settings.acceleration_compile:
        # Regional: a seventh of the full compile's time at about its speed (PyTorch's published 9.6 s against 67 s).
        denoiser.compile_repeated_blocks(fullgraph=True)
    return {
        "compile": "regional" if settings.acceleration_compile else "off",
        "quantization": settings.acceleration_quantization,
        "attention": settings.acceleration_attention or "default",
    }
