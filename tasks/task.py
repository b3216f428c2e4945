"""A task: a request as a person sends it, and the same request as accepted, with nothing left open."""

import hashlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

ImageFormat = Literal["png", "jpeg", "webp"]
CONTENT_TYPES: dict[str, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
MAX_SEED = 2**63 - 1
ANONYMOUS = "anonymous"
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
TASK_ID = r"^[0-9a-f]{32}$"
UNDERSTOOD_FIELDS: frozenset[str] = frozenset()
"""Every name that a record may list in `requires` and that this version honours."""
TaskId = Annotated[str, Field(pattern=TASK_ID, description="32 lower-case hex digits.")]


class Lora(BaseModel):
    """A LoRA of the model's own folder and how strongly it is applied."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    name: Name
    weight: float = Field(default=1.0, ge=-4.0, le=4.0)


class RequestedLora(Lora):
    """A LoRA as a person asks for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


def _lora(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class RequestedParams(BaseModel):
    """What may be said about the picture; what is left out is filled with the model's own default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    width: int | None = Field(default=None, ge=1, le=16384)
    height: int | None = Field(default=None, ge=1, le=16384)
    steps: int | None = Field(default=None, ge=1, le=10000)
    guidance_scale: float | None = Field(default=None, ge=0.0, le=100.0)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    num_images: int | None = Field(default=None, ge=1, le=64)
    format: ImageFormat | None = None
    scheduler: str | None = Field(default=None, min_length=1, max_length=64)


class GenerateRequest(BaseModel):
    """The body of `POST /generate_image`. Only model_name and prompt are required."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model_name: Name
    prompt: str = Field(min_length=1, max_length=100_000)
    negative_prompt: str = Field(default="", max_length=100_000)
    image_params: RequestedParams = RequestedParams()
    loras: tuple[Annotated[RequestedLora, BeforeValidator(_lora)], ...] = Field(default=(), max_length=64)
    user_id: str = Field(default=ANONYMOUS, min_length=1, max_length=200)
    topic: str | None = Field(default=None, min_length=1, max_length=249, description="The lane; default: the first.")
    start_within: float | None = Field(
        default=None, gt=0, le=604_800, strict=True, description="Seconds until it must start."
    )
    max_runtime: float | None = Field(
        default=None, gt=0, le=86_400, strict=True, description="Seconds one attempt may run."
    )
    previews: bool = Field(default=False, strict=True)


class RecordedParams(RequestedParams):
    """The same on a lane, where a newer version may have said more."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, strict=True)


class TaskRecord(GenerateRequest):
    """The value of a record on a lane. Any Kafka client may write one: task_id, model_name and prompt are enough."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    image_params: RecordedParams = RecordedParams()
    loras: tuple[Annotated[Lora, BeforeValidator(_lora)], ...] = Field(default=(), max_length=64)  # type: ignore[assignment]
    task_id: TaskId
    created_at: float | None = Field(
        default=None,
        ge=0,
        le=253_402_300_799,
        description="Unix seconds, to the end of the year 9999; default: the record's timestamp.",
    )
    alias: str | None = Field(default=None, description="The other name of the model it was asked for by.")
    fingerprint: str | None = None
    traceparent: str | None = None
    requires: tuple[str, ...] = Field(
        default=(),
        max_length=64,
        description="Fields of this record that a consumer must understand. One that does not leaves the task alone.",
    )


class ImageParams(BaseModel):
    """Everything about the picture, decided."""

    model_config = ConfigDict(frozen=True, extra="allow")

    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    num_images: int
    format: str = Field(description="An ImageFormat, or one that a newer version knows.")
    scheduler: str


class Task(BaseModel):
    """A request as accepted. `model_name` is the model that serves it; `alias` the other name it was asked for by."""

    model_config = ConfigDict(frozen=True, extra="allow")

    task_id: str
    model_name: str
    alias: str | None = None
    prompt: str
    negative_prompt: str = ""
    image_params: ImageParams
    loras: tuple[Lora, ...] = ()
    user_id: str = ANONYMOUS
    topic: str
    start_within: float | None = None
    max_runtime: float | None = None
    previews: bool = False
    created_at: float
    fingerprint: str | None = None
    traceparent: str | None = None
    requires: tuple[str, ...] = ()
    cost: float = Field(default=0.0, description="Estimated GPU seconds.")

    @property
    def start_deadline(self) -> float | None:
        """Unix seconds after which it is no longer started."""
        return None if self.start_within is None else self.created_at + self.start_within


def seed_of(task_id: str) -> int:
    """The seed of a task that names none: a function of its id, so that every attempt makes the same picture."""
    return int.from_bytes(hashlib.sha256(task_id.encode()).digest()[:4], "big")


def fingerprint(request: GenerateRequest) -> str:
    """What "the same body" means for an Idempotency-Key: equal once parsed, whatever the order of keys or spaces."""
    return hashlib.sha256(request.model_dump_json().encode()).hexdigest()
