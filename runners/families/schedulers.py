"""The Stable Diffusion samplers, each one object per picture. Only those whose pictures were tested against the
pipeline's own stand here."""

from dataclasses import dataclass, field
from typing import Any

import diffusers


@dataclass(frozen=True, slots=True)
class Sampler:
    """A diffusers scheduler class with its settings, and the name the Stable Diffusion web tools give it."""

    class_name: str
    label: str
    options: dict[str, Any] = field(default_factory=dict)


SAMPLERS = {
    "pndm": Sampler("PNDMScheduler", "PLMS", {"skip_prk_steps": True}),
    "ddim": Sampler("DDIMScheduler", "DDIM"),
    "euler": Sampler("EulerDiscreteScheduler", "Euler"),
    "euler_a": Sampler("EulerAncestralDiscreteScheduler", "Euler a"),
    "heun": Sampler("HeunDiscreteScheduler", "Heun"),
    "dpmpp_2m": Sampler("DPMSolverMultistepScheduler", "DPM++ 2M"),
    "dpmpp_2m_karras": Sampler("DPMSolverMultistepScheduler", "DPM++ 2M Karras", {"use_karras_sigmas": True}),
    "unipc": Sampler("UniPCMultistepScheduler", "UniPC"),
}
OWN = "default"
"""The name of a model's own scheduler when it is none of the above."""


def names_for(own: Any) -> tuple[str, ...]:
    """Every sampler a model can use, the one its folder names first."""
    first = next((name for name, it in SAMPLERS.items() if it.class_name == type(own).__name__), OWN)
    return (first, *(name for name in SAMPLERS if name != first))


def make(name: str, own: Any) -> Any:
    """A new scheduler of that name with the model's own noise schedule. The model's own keeps all its settings."""
    first = names_for(own)[0]
    if name == first:
        return type(own).from_config(own.config)
    sampler = SAMPLERS[name]
    return getattr(diffusers, sampler.class_name).from_config(own.config, **sampler.options)
