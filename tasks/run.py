"""What the consumer and a runner say to each other: the request, and the card that says what a runner can do."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.task import ImageFormat, Lora


class RunRequest(BaseModel):
    """One attempt at one task, everything resolved: body of the runner's `POST /run`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    task_id: str
    attempt: int = 1
    model_name: str
    prompt: str
    negative_prompt: str = ""
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    num_images: int = 1
    format: ImageFormat = "png"
    scheduler: str
    loras: tuple[Lora, ...] = ()
    metadata: dict[str, str] = Field(default_factory=dict)
    preview: bool = False
    max_runtime: float | None = None


Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


class RunnerCard(BaseModel):
    """What one runner can do and how fast, as it says itself (`GET /card`) and as `{prefix}.models` keeps it.

    Sizes in pixels, times in seconds. `pixel_budget` is the sum of width x height it runs at once.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

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
    pixel_budget: Positive
    seconds_per_megapixel_step: float = Field(ge=0)
    acceleration: dict[str, Any] = Field(default_factory=dict)
    version: str = ""
    instance: str = ""
    running_pixels: Count = 0
    waiting: Count = 0
    runners: Count = Field(default=1, description="How many runners of this model answered last; 0: none now.")

    def cost(self, width: int, height: int, steps: int, num_images: int) -> float:
        """Estimated GPU seconds of a task: steps x megapixels x the measured rate."""
        return num_images * steps * width * height / 1e6 * self.seconds_per_megapixel_step
