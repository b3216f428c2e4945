"""What a model can do, apart from how a runner stands with it.

`ModelCapabilities` follows from the model's folder and the settings alone, so it is known before a model is loaded.
`RunnerStatus` is what only the running process knows. Both together make a `ServedModel`.
"""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
_CONFIG = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class StandIn(BaseModel):
    """What a model takes under the name of the model for which it stands in: the limits and defaults of that model.

    The stand-in draws at the size nearest to the requested one that it knows itself, and resizes the image.
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
    """What can be asked of a model. Sizes in pixels, `max_prompt_length` in characters.

    Loading a model can only narrow it: a LoRA may turn out unusable, and the largest image must fit the pixel budget.
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
        default_factory=dict, description="By alias: the models for which this one stands in, and what they take."
    )

    def offered_as(self, name: str) -> "ModelCapabilities":
        """What may be asked under this name of the model: as the stand-in of another model, what that one takes."""
        stand_in = self.stand_ins.get(name)
        return self if stand_in is None else self.model_copy(update=dict(stand_in))


class ModelStatus(BaseModel):
    """How a runner stands with one of its models.

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
    """How a runner stands. `instance` is a new random name at each start; `models` is by model name."""

    model_config = _CONFIG

    instance: str = ""
    models: dict[str, ModelStatus] = Field(default_factory=dict)


class ServedModel(ModelCapabilities):
    """A model that runners serve: what `accept` goes by and what `{prefix}.models` holds.

    `pixel_budget` and `seconds_per_megapixel_step` are those of the runner that answered last. The flat document of
    `GET /card` is the same model, with the status of that runner.
    """

    pixel_budget: Positive
    seconds_per_megapixel_step: float = Field(ge=0)
    acceleration: dict[str, Any] = Field(default_factory=dict)
    instance: str = ""
    running_pixels: Count = 0
    waiting: Count = 0
    runners: Count = Field(default=1, description="How many runners of this model answered last; 0: none now.")

    @classmethod
    def of(cls, capabilities: ModelCapabilities, status: ModelStatus, instance: str = "") -> Self:
        """The model as one runner serves it."""
        return cls.model_validate(dict(capabilities) | dict(status) | {"instance": instance})

    def cost(self, width: int, height: int, steps: int, num_images: int) -> float:
        """Estimated GPU seconds of a task: steps x megapixels x the measured rate."""
        return num_images * steps * width * height / 1e6 * self.seconds_per_megapixel_step


class RunnerDescription(BaseModel):
    """The answer of a runner's `GET /models`: how it stands, and what each of its models can do, by model name."""

    model_config = _CONFIG

    status: RunnerStatus
    capabilities: dict[str, ModelCapabilities]

    @classmethod
    def of_served(cls, *models: ServedModel) -> Self:
        """The description of a runner that serves these models, as an older runner's `GET /card` implies it."""
        return cls(
            status=RunnerStatus(
                instance=models[0].instance if models else "",
                models={m.model: ModelStatus.model_validate(dict(m) | {"loaded": True}) for m in models},
            ),
            capabilities={m.model: ModelCapabilities.model_validate(dict(m)) for m in models},
        )

    def served(self) -> dict[str, ServedModel]:
        """The models that take tasks now, by name. A model that is still loading is left out."""
        return {
            name: ServedModel.of(self.capabilities[name], status, self.status.instance)
            for name, status in self.status.models.items()
            if status.loaded and status.pixel_budget and name in self.capabilities
        }
