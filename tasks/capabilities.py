"""What a model can do (its capabilities), and separately the status of a runner.

`ModelCapabilities` follows from the model's folder and the settings alone, so it is known before a model is loaded.
`RunnerStatus` holds what only the running process knows. Both together make a `ServedModel`.
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from tasks.task import Count, Positive

_CONFIG = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class StandIn(BaseModel):
    """The limits and defaults of a missing model, for which another model stands in under its name.

    The stand-in draws at the nearest size that it can draw (`tasks.accept.nearest_size`), and the runner resizes the
    image.
    """

    model_config = _CONFIG

    width: Positive
    height: Positive
    size_multiple: Positive
    min_side: Positive
    max_side: Positive
    max_pixels: Positive
    steps: Positive
    guidance_scale: float
    max_prompt_length: Positive


class ModelCapabilities(BaseModel):
    """What a model can do: its limits and defaults. Sizes in pixels, `max_prompt_length` in characters.

    Loading the model can only narrow them: a LoRA may turn out to be unusable, and the largest image must fit the pixel
    budget.
    """

    model_config = _CONFIG

    model: str
    family: str
    aliases: tuple[str, ...] = ()
    width: Positive
    height: Positive
    size_multiple: Positive
    min_side: Positive
    max_side: Positive
    max_pixels: Positive
    steps: Positive
    max_steps: Positive
    guidance_scale: float
    schedulers: tuple[str, ...]
    default_scheduler: str
    loras: tuple[str, ...] = ()
    max_loras: Count = 4
    max_prompt_length: Positive
    max_num_images: Positive = 4
    negative_prompt: bool = True
    inputs: tuple[str, ...] = Field(default=(), description="The names of the inputs that a task may have.")
    version: str = ""
    stand_ins: dict[str, StandIn] = Field(
        default_factory=dict, description="The models for which this one stands in, by alias, with their limits."
    )

    def offered_as(self, name: str) -> "ModelCapabilities":
        """The capabilities under this name of the model. Under the name of a missing model for which it stands in, they
        have the limits and defaults of the missing model."""
        stand_in = self.stand_ins.get(name)
        return self if stand_in is None else self.model_copy(update=dict(stand_in))


class ModelStatus(BaseModel):
    """The status of one model on a runner.

    `pixel_budget` is the sum of width x height that the runner draws at once, `running_pixels` the part of it in use,
    and `waiting` the number of tasks that it has accepted and not started.
    """

    model_config = _CONFIG

    loaded: bool
    pixel_budget: Count = 0
    seconds_per_megapixel_step: float = Field(default=0.0, ge=0)
    running_pixels: Count = 0
    waiting: Count = 0
    acceleration: dict[str, Any] = Field(default_factory=dict)


class RunnerStatus(BaseModel):
    """The status of a runner. `instance` is a new random name at each start; `models` is by model name."""

    model_config = _CONFIG

    instance: str = ""
    models: dict[str, ModelStatus] = Field(default_factory=dict)


class ServedModel(ModelCapabilities):
    """A model that runners serve. `accept` checks requests against it, and each record of `{prefix}.models` holds one.

    `pixel_budget` and `seconds_per_megapixel_step` are those of the runner that answered last. The flat document of
    `GET /card` is the same model, with the status of that runner.
    """

    pixel_budget: Positive
    seconds_per_megapixel_step: float = Field(ge=0)
    acceleration: dict[str, Any] = Field(default_factory=dict)
    instance: str = ""
    running_pixels: Count = 0
    waiting: Count = 0
    runners: Count = Field(default=1, description="How many runners serve this model now.")
    loading: Count = Field(default=0, description="How many runners are loading this model now.")

    @classmethod
    def of(cls, capabilities: ModelCapabilities, status: ModelStatus, instance: str = "") -> Self:
        """The model as one runner serves it."""
        return cls.model_validate(dict(capabilities) | dict(status) | {"instance": instance})

    def cost(self, width: int, height: int, steps: int, num_images: int) -> float:
        """Estimated GPU seconds of a task: images x steps x megapixels x the measured rate."""
        return num_images * steps * width * height / 1e6 * self.seconds_per_megapixel_step


class RunnerDescription(BaseModel):
    """The answer of a runner's `GET /models`: its status, and the capabilities of its models by model name."""

    model_config = _CONFIG

    status: RunnerStatus
    capabilities: dict[str, ModelCapabilities]

    @classmethod
    def of_served(cls, *models: ServedModel) -> Self:
        """The description of a runner that serves these models, for a runner of an older version, which has only
        `GET /card`, and for the in-memory twin."""
        return cls(
            status=RunnerStatus(
                instance=models[0].instance if models else "",
                models={model.model: ModelStatus.model_validate(dict(model) | {"loaded": True}) for model in models},
            ),
            capabilities={model.model: ModelCapabilities.model_validate(dict(model)) for model in models},
        )

    def served(self) -> dict[str, ServedModel]:
        """The models that take tasks now, by name. A model that is still loading is left out."""
        return {
            name: ServedModel.of(self.capabilities[name], status, self.status.instance)
            for name, status in self.status.models.items()
            if status.loaded and status.pixel_budget and name in self.capabilities
        }

    def loading(self) -> frozenset[str]:
        """The names of the models that the runner is still loading."""
        return frozenset(name for name, status in self.status.models.items() if not status.loaded)
