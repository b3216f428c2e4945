"""What each model can do now: the entries of `GET /models`."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from functions.status.task_index import TaskIndex
from tasks.accept import nearest_size
from tasks.capabilities import ServedModel
from tasks.names import Permission, names_of, usable_models
from tasks.task import Size


class ModelEntry(BaseModel):
    """What a request that names this model may ask for. Sizes are pixels."""

    model_name: str = Field(description="The name to ask for.")
    alias_of: str | None = Field(description="The model that serves this name, where the name is an alias.")
    aliases: tuple[str, ...] = Field(description="The other names of the model; empty for an alias.")
    family: str = Field(description="The model's architecture.")
    width: int = Field(description="The default width.")
    height: int = Field(description="The default height.")
    size_multiple: int = Field(description="Width and height must be multiples of this.")
    min_side: int = Field(description="The smallest width and height.")
    max_side: int = Field(description="The largest width and height.")
    max_pixels: int = Field(description="The largest width x height.")
    steps: int = Field(description="The default number of steps.")
    max_steps: int = Field(description="The largest number of steps.")
    guidance_scale: float = Field(description="The default guidance scale.")
    schedulers: tuple[str, ...] = Field(description="The schedulers that a request may name.")
    default_scheduler: str = Field(description="The scheduler of a request that names none.")
    loras: tuple[str, ...] = Field(description="The LoRAs that a request may name.")
    max_loras: int = Field(description="How many LoRAs one request may name.")
    max_prompt_length: int = Field(description="Characters that a prompt may have.")
    max_num_images: int = Field(description="Images that one request may ask for.")
    negative_prompt: bool = Field(description="Whether the model takes a negative prompt.")
    seconds_per_megapixel_step: float = Field(description="Measured GPU seconds of one step of one megapixel.")
    acceleration: dict[str, Any] = Field(description="What makes the runners faster, as they report it.")
    version: str = Field(description="The version of the runners.")
    drawn_at: Size | None = Field(
        description="For a model that another one stands in for: the size at which the stand-in draws an image of the "
        "default size before it resizes it; null for every other name."
    )
    runners: int = Field(description="How many runners of this model answered last.")
    loading: int = Field(description="How many runners are loading this model.")
    queued: int = Field(description="How many tasks are queued for it.")


class ModelList(BaseModel):
    """The answer of `GET /models`: one entry for every name, sorted by name."""

    models: list[ModelEntry] = Field(description="One entry for every name that a request may use.")


_FROM_MODEL = set(ModelEntry.model_fields) - {"model_name", "alias_of", "aliases", "drawn_at", "queued"}


def list_models(index: TaskIndex, permission: Permission) -> ModelList:
    """An entry for every name that means one of the models that the permission allows."""
    models = index.view.models()
    entries = []
    for model in usable_models(models, permission).values():
        queued = len(index.queues.queue(model.model))
        names = names_of(model, models)
        entries += [_entry(name, model, names, queued) for name in names]
    return ModelList(models=sorted(entries, key=lambda entry: entry.model_name))


def _entry(name: str, model: ServedModel, names: Sequence[str], queued: int) -> ModelEntry:
    offered = model.offered_as(name)
    own = name == model.model
    return ModelEntry(
        model_name=name,
        alias_of=None if own else model.model,
        aliases=tuple(names[1:]) if own else (),
        drawn_at=nearest_size(offered.width, offered.height, model) if name in model.stand_ins else None,
        queued=queued,
        **offered.model_dump(include=_FROM_MODEL),
    )
