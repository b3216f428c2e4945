"""The card of a loaded model: what can be asked of it, as data, so that nobody else needs torch to know."""

import diffusers

from config.settings import Settings
from runners.loading import Model
from tasks.run import RunnerCard, RunRequest

MAX_STEPS = 150
MAX_IMAGES = 8


def make_card(model: Model, settings: Settings, rate: float) -> RunnerCard:
    """The card. `rate` is the measured seconds per megapixel and step."""
    family = model.family
    aliases = sorted(alias for alias, name in settings.model_aliases.items() if name == settings.model_name)
    max_pixels = min(family.max_pixels, max(model.pixel_budget, family.width * family.height))
    return RunnerCard(
        model=settings.model_name,
        family=family.name,
        aliases=tuple(aliases),
        width=family.width,
        height=family.height,
        size_multiple=family.size_multiple,
        min_side=4 * family.size_multiple,
        max_side=2 * max(family.width, family.height),
        max_pixels=max_pixels,
        steps=family.steps,
        max_steps=MAX_STEPS,
        guidance_scale=family.guidance_scale,
        schedulers=family.schedulers,
        default_scheduler=family.schedulers[0],
        loras=model.adapters.names,
        max_prompt_length=family.max_prompt_length,
        max_num_images=MAX_IMAGES,
        pixel_budget=model.pixel_budget,
        seconds_per_megapixel_step=float(f"{rate:.3g}"),
        acceleration=model.acceleration,
        version=f"diffusers {diffusers.__version__}, model {model.folder.digest}",
    )


def warm_up_request(model: Model, steps: int) -> RunRequest:
    """A task of the model's default size."""
    family = model.family
    return RunRequest(
        task_id="warm-up",
        model_name="warm-up",
        prompt="a red circle",
        width=family.width,
        height=family.height,
        steps=steps,
        guidance_scale=family.guidance_scale,
        seed=0,
        scheduler=family.schedulers[0],
    )
