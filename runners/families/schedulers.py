"""The samplers that a request may name. Each image has a scheduler object of its own.

It lists only samplers whose images were tested against the pipeline's own. Importing this module loads no diffusers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


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
PUBLISHED = tuple(
    dict.fromkeys(
        f"diffusers.{name}"
        for name in (
            *(sampler.class_name for sampler in SAMPLERS.values()),
            *("DDPMScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
            *("DPMSolverSinglestepScheduler", "DEISMultistepScheduler", "LCMScheduler", "TCDScheduler"),
        )
    )
)
"""The schedulers that the folder of a Stable Diffusion model may name as its own."""
OWN = "default"
"""The name of a model's own scheduler when it is none of the above."""


def names_for(own: str, samplers: Sequence[str], own_name: str = OWN) -> tuple[str, ...]:
    """Every sampler a model can use, its own first. `own` is the class name of the model's scheduler, `samplers` holds
    the names its family allows, and `own_name` is for a scheduler that is none of them."""
    first = next((name for name in samplers if SAMPLERS[name].class_name == own), own_name)
    return (first, *(name for name in samplers if name != first))


def make(name: str, own: Any) -> Any:
    """A new scheduler of that name with the noise schedule of `own`, the model's own, which keeps all its settings."""
    first = names_for(type(own).__name__, tuple(SAMPLERS))[0]
    if name == first:
        return type(own).from_config(own.config)
    import diffusers

    sampler = SAMPLERS[name]
    return getattr(diffusers, sampler.class_name).from_config(own.config, **sampler.options)
