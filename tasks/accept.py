"""`accept` checks a request against the models, and fills every value that the request leaves open.

It is one pure function with three callers: the gateway for requests over HTTP, `tasks.reading` for records of a lane,
and the runner for the requests of a consumer.
"""

from collections.abc import Mapping, Sequence

from tasks.capabilities import ModelCapabilities, ServedModel
from tasks.errors import (
    InvalidRequest,
    NegativePromptNotSupported,
    PromptTooLong,
    SizeNotSupported,
    TooManyImages,
    TooManySteps,
    UnknownLora,
    UnknownScheduler,
)
from tasks.names import EVERYTHING, Permission, find_lane, find_model
from tasks.object_keys import input_folder
from tasks.task import (
    GenerateRequest,
    ImageParams,
    Lora,
    RecordFields,
    RequestedParams,
    Size,
    Task,
    TaskFields,
    TaskRecord,
    seed_of,
    shared_fields,
)


def accept(
    request: GenerateRequest,
    *,
    task_id: str,
    models: Mapping[str, ServedModel],
    lanes: Sequence[str],
    created_at: float,
    permission: Permission = EVERYTHING,
) -> Task:
    """The task that this request asks for. The model's default fills every value that the request leaves open.

    Raises UnknownModel, UnknownLane, NotAllowedByKey, or the TaskError for what the model cannot do; the error names
    the field.
    """
    model = find_model(request.model_name, models, permission)
    lane = find_lane(request.topic, lanes, permission)
    unchanged = _unchanged_fields(request)
    requested_name = str(unchanged.get("alias") or request.model_name)
    offered = model.offered_as(requested_name)
    params = _fill(request.image_params, offered, task_id)
    _check_size(params, offered)
    if offered is not model:
        params = params.model_copy(update={"drawn_at": nearest_size(params.width, params.height, model)})
    _check_params(params, model)
    _check_prompts(request, offered)
    _check_loras(request, model)
    if isinstance(request, TaskRecord):
        _check_inputs(request, model)
    return Task.model_validate(
        unchanged
        | {
            "task_id": task_id,
            "model_name": model.model,
            "alias": None if requested_name == model.model else requested_name,
            "image_params": params,
            "topic": lane,
            "created_at": created_at,
            "cost": model.cost(*params.drawn_size, params.steps, params.num_images),
        }
    )


def unaccepted(record: TaskRecord, lane: str, created_at: float) -> Task:
    """The task of a record that `accept` refused. No attempt at it starts, so open values become 0 or empty."""
    empty = {"width": 0, "height": 0, "steps": 0, "guidance_scale": 0.0, "seed": 0, "scheduler": ""}
    params = ImageParams.model_validate(empty | record.image_params.model_dump(exclude_none=True))
    return Task.model_validate(
        _unchanged_fields(record)
        | {"task_id": record.task_id, "image_params": params, "topic": lane, "created_at": created_at}
    )


def _unchanged_fields(request: GenerateRequest) -> dict[str, object]:
    """The fields of a request, or of its record, that the task takes over unchanged."""
    loras = tuple(Lora(name=lora.name, weight=lora.weight) for lora in request.loras)
    return shared_fields(request, TaskFields, RecordFields) | {"loras": loras}


def _fill(requested: RequestedParams, model: ModelCapabilities, task_id: str) -> ImageParams:
    """The parameters of the request, with the model's defaults where the request leaves one open."""
    given = {name: value for name, value in vars(requested).items() if value is not None}
    if "seed" not in given:
        given["seed"] = seed_of(task_id)
    defaults = {
        "width": model.width,
        "height": model.height,
        "steps": model.steps,
        "guidance_scale": model.guidance_scale,
        "scheduler": model.default_scheduler,
    }
    return ImageParams.model_validate(defaults | given)


def nearest_size(width: int, height: int, model: ModelCapabilities) -> Size | None:
    """The size at which the model draws as a stand-in: the possible size that is nearest in shape and area to the
    requested one. None: the requested size is possible.

    The sides are scaled together to what the model takes, then each is rounded to a multiple of `size_multiple`.
    """
    largest = min(model.max_side / max(width, height), (model.max_pixels / (width * height)) ** 0.5)
    scale = max(min(1.0, largest), model.min_side / min(width, height))
    sides = [_nearest_side(side * scale, model) for side in (width, height)]
    while sides[0] * sides[1] > model.max_pixels and max(sides) - model.size_multiple >= model.min_side:
        sides[sides.index(max(sides))] -= model.size_multiple
    return None if sides == [width, height] else Size(width=sides[0], height=sides[1])


def _nearest_side(side: float, model: ModelCapabilities) -> int:
    multiple = model.size_multiple
    lowest, highest = -(-model.min_side // multiple) * multiple, model.max_side // multiple * multiple
    return min(max(round(side / multiple) * multiple, lowest), highest)


def _check_size(params: ImageParams, model: ModelCapabilities) -> None:
    width, height = params.width, params.height
    for field, side in (("width", width), ("height", height)):
        _check_side(field, side, model)
    if width * height > model.max_pixels:
        raise SizeNotSupported(
            f"{width}x{height} is too large: {model.model} makes images of at most {model.max_pixels} pixels.",
            field="image_params",
        )


def _check_params(params: ImageParams, model: ServedModel) -> None:
    if params.steps > model.max_steps:
        raise TooManySteps(f"{model.model} takes at most {model.max_steps} steps.", field="image_params.steps")
    if params.num_images > model.max_num_images or params.pixels > model.pixel_budget:
        most = min(model.max_num_images, max(1, model.pixel_budget * params.num_images // params.pixels))
        raise TooManyImages(
            f"{model.model} makes at most {most} images of {params.width}x{params.height} in one task.",
            field="image_params.num_images",
        )
    if params.scheduler not in model.schedulers:
        raise UnknownScheduler(
            f"{model.model} has no scheduler {params.scheduler!r}. Schedulers: {', '.join(model.schedulers)}.",
            field="image_params.scheduler",
            allowed=list(model.schedulers),
        )


def _check_side(field: str, side: int, model: ModelCapabilities) -> None:
    if side % model.size_multiple or not model.min_side <= side <= model.max_side:
        raise SizeNotSupported(
            f"{field} {side} is not possible: {model.model} takes {_sides(model)}.",
            field=f"image_params.{field}",
        )


def _sides(model: ModelCapabilities) -> str:
    if model.min_side == model.max_side:
        return f"{model.min_side} only"
    return f"multiples of {model.size_multiple} from {model.min_side} to {model.max_side}"


def _check_prompts(request: GenerateRequest, model: ModelCapabilities) -> None:
    for field in ("prompt", "negative_prompt"):
        length = len(getattr(request, field))
        if length > model.max_prompt_length:
            raise PromptTooLong(
                f"{field} has {length} characters; {model.model} takes at most {model.max_prompt_length}.", field=field
            )
    if request.negative_prompt and not model.negative_prompt:
        raise NegativePromptNotSupported(f"{model.model} takes no negative prompt.", field="negative_prompt")


def _check_loras(request: GenerateRequest, model: ServedModel) -> None:
    if len(request.loras) > model.max_loras:
        raise UnknownLora(f"{model.model} takes at most {model.max_loras} LoRAs in one task.", field="loras")
    seen: set[str] = set()
    for index, lora in enumerate(request.loras):
        if lora.name not in model.loras:
            raise UnknownLora(
                f"{model.model} has no LoRA {lora.name!r}. LoRAs: {', '.join(model.loras) or 'none'}.",
                field=f"loras.{index}",
                allowed=list(model.loras),
            )
        if lora.name in seen:
            raise UnknownLora(f"The LoRA {lora.name!r} is named twice.", field=f"loras.{index}")
        seen.add(lora.name)


def _check_inputs(record: TaskRecord, model: ServedModel) -> None:
    folder = input_folder(record.user_id)
    for index, reference in enumerate(record.inputs):
        if reference.name not in model.inputs:
            raise InvalidRequest(
                f"{model.model} takes no input {reference.name!r}. Inputs: {', '.join(model.inputs) or 'none'}.",
                field=f"inputs.{index}.name",
                allowed=list(model.inputs),
            )
        if not reference.key.startswith(folder):
            raise InvalidRequest(f"The input {reference.name} is not the user's own.", field=f"inputs.{index}.key")
