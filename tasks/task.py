"""A task in each of its forms: the request a client sends, its record on a lane, and the task as accepted.

A field that several forms share is declared once, in `DrawingFields`, `TaskFields` or `RecordFields`, and is carried
from one form to the next by construction (`shared_fields`). `GenerateRequest` adds the limits that a client must keep;
`Task` has none, because a task written by a newer version must stay readable. Three fields change their type when a
request is accepted, so both forms declare them: `image_params`, `topic` and `created_at`.
"""

import functools
import hashlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

ImageFormat = Literal["png", "jpeg", "webp"]
CONTENT_TYPES: dict[str, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
DEFAULT_FORMAT = "png"
MAX_SEED = 2**63 - 1
ANONYMOUS = "anonymous"
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
TASK_ID = r"^[0-9a-f]{32}$"
UNDERSTOOD_FIELDS: frozenset[str] = frozenset({"inputs"})
"""Every name that a record may list in `requires` and that this version honours."""
TaskId = Annotated[str, Field(pattern=TASK_ID, description="32 lower-case hex digits.")]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""A number that SQLite can hold. A larger number in a record would stop every consumer that reads it."""
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Lora(BaseModel):
    """A LoRA of the model's own folder and how strongly it is applied."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    name: Name
    weight: float = Field(default=1.0, ge=-4.0, le=4.0)


class RequestedLora(Lora):
    """A LoRA as a client asks for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


def _from_name(value: Any) -> Any:
    """A LoRA of weight 1 for a bare name."""
    return {"name": value} if isinstance(value, str) else value


class Size(BaseModel):
    """Width and height in pixels."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    width: int
    height: int


class ImageParams(BaseModel):
    """The parameters of an image, with every open value decided. Sizes in pixels."""

    model_config = ConfigDict(frozen=True, extra="allow")

    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    num_images: int = 1
    format: str = Field(default=DEFAULT_FORMAT, description="An ImageFormat, or one that a newer version knows.")
    scheduler: str
    drawn_at: Size | None = Field(
        default=None,
        description="The size at which a stand-in draws the image before it resizes it to width x height; null: the "
        "image is drawn at its own size.",
    )

    @property
    def drawn_size(self) -> tuple[int, int]:
        """Width and height at which the model draws each image."""
        size = self.drawn_at or self
        return size.width, size.height

    @property
    def pixels(self) -> int:
        """The pixels that the model draws for all images: what the task takes of a runner's pixel budget."""
        width, height = self.drawn_size
        return self.num_images * width * height


class RequestedParams(BaseModel):
    """The parameters of an image as a client asks for them. The model's own default fills a value left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    width: int | None = Field(default=None, ge=1, le=16384)
    height: int | None = Field(default=None, ge=1, le=16384)
    steps: int | None = Field(default=None, ge=1, le=10000)
    guidance_scale: float | None = Field(default=None, ge=0.0, le=100.0)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    num_images: int | None = Field(default=None, ge=1, le=64)
    format: ImageFormat | None = None
    scheduler: str | None = Field(default=None, min_length=1, max_length=64)


class InputReference(BaseModel):
    """An input of a task: a file from which the images start, for example an image or a mask. `key` is its name in the
    store, in the folder of the task's user (`tasks.object_keys.input_folder`)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    key: str
    content_type: str


class RecordedInput(InputReference):
    """An input as a record on a lane names it. Any Kafka client may write there, so only keys of inputs are allowed."""

    name: Name
    key: str = Field(max_length=400, pattern=r"^inputs(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$")
    content_type: str = Field(max_length=100, pattern=r"^[A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+$")


class DrawingFields(BaseModel):
    """What the images show: the fields that travel from the client to the runner."""

    model_name: str
    prompt: str
    negative_prompt: str = ""
    loras: tuple[Lora, ...] = ()
    max_runtime: float | None = Field(default=None, description="Seconds one attempt may run.")


class TaskFields(DrawingFields):
    """The other fields of a client that travel to the queue: whose task it is, and how it is run."""

    user_id: str = ANONYMOUS
    start_within: float | None = Field(default=None, description="Seconds within which the task must start.")
    previews: bool = False


class RecordFields(BaseModel):
    """What the gateway adds to a request when it writes the task to a lane."""

    alias: str | None = Field(default=None, description="The other name of the model by which the client asked for it.")
    fingerprint: str | None = Field(default=None, description="What gateways of 0.1.0 compare, see tasks.fingerprint.")
    request_sha256: str | None = Field(
        default=None, description="SHA-256 of what the client sent, if it sent an Idempotency-Key."
    )
    traceparent: str | None = None
    inputs: tuple[InputReference, ...] = Field(
        default=(), description="The files from which the images start. A record with inputs requires `inputs`."
    )
    requires: tuple[str, ...] = Field(
        default=(),
        max_length=64,
        description="Fields of this record that a consumer must understand. A consumer that does not understand them "
        "leaves the task to a newer version.",
    )


class GenerateRequest(TaskFields):
    """The body of `POST /generate_image`. Only model_name and prompt are required."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model_name: Name
    prompt: str = Field(min_length=1, max_length=100_000)
    negative_prompt: str = Field(default="", max_length=100_000)
    image_params: RequestedParams = RequestedParams()
    loras: tuple[Annotated[RequestedLora, BeforeValidator(_from_name)], ...] = Field(default=(), max_length=64)
    user_id: str = Field(default=ANONYMOUS, min_length=1, max_length=200)
    topic: str | None = Field(default=None, min_length=1, max_length=249, description="The lane; default: the first.")
    start_within: float | None = Field(
        default=None, gt=0, le=604_800, strict=True, description="Seconds within which the task must start."
    )
    max_runtime: float | None = Field(
        default=None, gt=0, le=86_400, strict=True, description="Seconds one attempt may run."
    )
    previews: bool = Field(default=False, strict=True)


class RecordedParams(RequestedParams):
    """The same parameters on a lane, where a newer version may have written more."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, strict=True)


class TaskRecord(GenerateRequest, RecordFields):
    """The value of a record on a lane. Any Kafka client may write one: task_id, model_name and prompt are enough."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    image_params: RecordedParams = RecordedParams()
    loras: tuple[Annotated[Lora, BeforeValidator(_from_name)], ...] = Field(default=(), max_length=64)  # type: ignore[assignment]
    inputs: tuple[RecordedInput, ...] = Field(default=(), max_length=16)
    task_id: TaskId
    created_at: float | None = Field(
        default=None,
        ge=0,
        le=253_402_300_799,
        description="Unix seconds, to the end of the year 9999; default: the record's timestamp.",
    )


class Task(TaskFields, RecordFields):
    """A request as accepted. `model_name` is the model that serves it, `alias` the other name that the client used."""

    model_config = ConfigDict(frozen=True, extra="allow")

    task_id: str
    image_params: ImageParams
    topic: str
    created_at: float
    cost: float = Field(default=0.0, description="Estimated GPU seconds.")

    @property
    def start_deadline(self) -> float | None:
        """Unix seconds after which no attempt starts any more."""
        return None if self.start_within is None else self.created_at + self.start_within


def shared_fields(source: BaseModel, *bases: type[BaseModel]) -> dict[str, Any]:
    """The values that `source` holds of the fields these base models declare, by name."""
    values = vars(source)
    return {name: values[name] for name in _shared_names(type(source), *bases)}


@functools.cache
def _shared_names(source: type[BaseModel], *bases: type[BaseModel]) -> tuple[str, ...]:
    return tuple(name for base in bases for name in base.model_fields if name in source.model_fields)


def seed_of(task_id: str) -> int:
    """The seed of a task that names none: a function of its id, so that every attempt makes the same image."""
    return int.from_bytes(hashlib.sha256(task_id.encode()).digest()[:4], "big")
