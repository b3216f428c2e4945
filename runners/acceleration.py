"""What can make a model faster. Each is a setting, off by default; `GET /models` and every image name what is on."""

from typing import Any

from config.settings import Settings


def load_options(denoiser: str, settings: Settings) -> dict[str, Any]:
    """Options of `from_pretrained` that let optimum-quanto quantize the part `denoiser` while it is loaded."""
    if settings.acceleration_quantization == "none":
        return {}
    from diffusers import PipelineQuantizationConfig, QuantoConfig

    config = QuantoConfig(weights_dtype=settings.acceleration_quantization)
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping={denoiser: config})}


def apply(denoiser: Any, settings: Settings) -> dict[str, str]:
    """Apply the settings to the loaded denoiser, and return what is in force.

    Raises ValueError for an attention backend that is not installed.
    """
    if settings.acceleration_attention:
        denoiser.set_attention_backend(settings.acceleration_attention)
    if settings.acceleration_compile:
        # Regional compilation takes a seventh of the time of a full one, at about its speed (PyTorch: 9.6 s to 67 s).
        denoiser.compile_repeated_blocks(fullgraph=True)
    return {
        "compile": "regional" if settings.acceleration_compile else "off",
        "quantization": settings.acceleration_quantization,
        "attention": settings.acceleration_attention or "default",
    }
