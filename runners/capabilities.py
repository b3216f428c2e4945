"""The capabilities of a model, from its folder and the settings. Importing this loads no torch."""

from importlib.metadata import version

from config.settings import Settings
from runners.families.spec import MAX_STEPS
from runners.model_folder import ModelFolder
from tasks.capabilities import ModelCapabilities

MAX_IMAGES = 8


def describe(folder: ModelFolder, settings: Settings) -> ModelCapabilities:
    """The capabilities of the model, as far as they are known before it is loaded."""
    facts, name = folder.facts, settings.model_name
    stand_ins = sorted(alias for alias, model in settings.model_stand_ins.items() if model == name)
    aliases = sorted(alias for alias, model in settings.model_aliases.items() if model == name)
    return ModelCapabilities(
        model=name,
        family=facts.spec.name,
        aliases=tuple(dict.fromkeys((*aliases, *stand_ins))),
        stand_ins=dict.fromkeys(stand_ins, facts.stand_in()),
        width=facts.width,
        height=facts.height,
        size_multiple=facts.size_multiple,
        min_side=facts.min_side,
        max_side=facts.max_side,
        max_pixels=facts.max_pixels,
        steps=facts.steps,
        max_steps=MAX_STEPS,
        guidance_scale=facts.guidance_scale,
        schedulers=facts.schedulers,
        default_scheduler=facts.schedulers[0],
        loras=tuple(sorted(folder.loras)),
        max_prompt_length=facts.spec.max_prompt_length,
        max_num_images=MAX_IMAGES,
        negative_prompt=facts.spec.negative_prompt,
        inputs=facts.spec.inputs,
        version=f"diffusers {version('diffusers')}, model {folder.digest}",
    )


def narrow(capabilities: ModelCapabilities, loras: tuple[str, ...], pixel_budget: int) -> ModelCapabilities:
    """The capabilities of the loaded model: only the LoRAs that fit it, and no image larger than the pixel budget."""
    budget = max(pixel_budget, capabilities.width * capabilities.height)
    return capabilities.model_copy(update={"loras": loras, "max_pixels": min(capabilities.max_pixels, budget)})
