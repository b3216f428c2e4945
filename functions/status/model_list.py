"""What can be asked of each model now."""

from typing import Any

from functions.status.task_index import TaskIndex

_TOLD = (
    "family",
    "width",
    "height",
    "size_multiple",
    "min_side",
    "max_side",
    "max_pixels",
    "steps",
    "max_steps",
    "guidance_scale",
    "schedulers",
    "default_scheduler",
    "loras",
    "max_loras",
    "max_prompt_length",
    "max_num_images",
    "negative_prompt",
    "seconds_per_megapixel_step",
    "acceleration",
    "version",
    "runners",
)


def list_models(follower: TaskIndex) -> list[dict[str, Any]]:
    """One entry a name: the models, and the other names they answer to."""
    entries = []
    for card in follower.view.cards().values():
        facts = card.model_dump(include=set(_TOLD))
        facts["queued"] = len(follower.queues.queue(card.model))
        entries.append({"model_name": card.model, "alias_of": None, "aliases": card.aliases, **facts})
        entries += [{"model_name": alias, "alias_of": card.model, "aliases": (), **facts} for alias in card.aliases]
    return sorted(entries, key=lambda entry: str(entry["model_name"]))
