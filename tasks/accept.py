"""`accept`: may this be done, and what exactly? One pure function for requests over HTTP and records from Kafka."""

from collections.abc import Mapping, Sequence

from tasks.errors import (
    NegativePromptNotSupported,
    PromptTooLong,
    SizeNotSupported,
    TooManyImages,
    TooManySteps,
    UnknownLane,
    UnknownLora,
    UnknownModel,
    UnknownScheduler,
)
from tasks.run import RunnerCard
from tasks.task import GenerateRequest, ImageParams, Lora, RequestedParams, Task, TaskRecord, seed_of

DEFAULT_FORMAT = "png"


def find_card(name: str, cards: Mapping[str, RunnerCard]) -> RunnerCard:
    """The card of the model, or of the model that answers to the name. Raises UnknownModel naming all there are."""
    if name in cards:
        return cards[name]
    for card in cards.values():
        if name in card.aliases:
            return card
    names = sorted({*cards, *(alias for card in cards.values() for alias in card.aliases)})
    raise UnknownModel(
        f"There is no model {name!r}. Models: {', '.join(names) or 'none yet'}.", field="model_name", allowed=names
    )


def find_lane(name: str | None, lanes: Sequence[str]) -> str:
    """The lane's full topic name, from the full or the short one; None: the first. Raises UnknownLane."""
    if name is None:
        return lanes[0]
    for lane in lanes:
        if name in (lane, lane.rpartition(".")[2]):
            return lane
    raise UnknownLane(f"There is no lane {name!r}. Lanes: {', '.join(lanes)}.", field="topic", allowed=list(lanes))


def accept(
    request: GenerateRequest,
    *,
    task_id: str,
    cards: Mapping[str, RunnerCard],
    lanes: Sequence[str],
    created_at: float,
    fingerprint: str | None = None,
) -> Task:
    """The task this request asks for, every open value filled with the model's default.

    Raises the TaskError that says what is not possible, which field says so, and what is allowed.
    """
    card = find_card(request.model_name, cards)
    lane = find_lane(request.topic, lanes)
    params = _params(request.image_params, card, task_id)
    _check_words(request, card)
    _check_loras(request, card)
    record = request if isinstance(request, TaskRecord) else None
    asked_for = record.alias if record and record.alias else request.model_name
    return Task(
        task_id=task_id,
        model_name=card.model,
        alias=None if asked_for == card.model else asked_for,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        image_params=params,
        loras=tuple(Lora(name=lora.name, weight=lora.weight) for lora in request.loras),
        user_id=request.user_id,
        topic=lane,
        start_within=request.start_within,
        max_runtime=request.max_runtime,
        previews=request.previews,
        created_at=created_at,
        fingerprint=fingerprint or (record.fingerprint if record else None),
        traceparent=record.traceparent if record else None,
        requires=record.requires if record else (),
        cost=card.cost(params.width, params.height, params.steps, params.num_images),
    )


def unaccepted(record: TaskRecord, lane: str, created_at: float) -> Task:
    """A record that `accept` refused, as a task that this version cannot start: open values stay empty (0)."""
    asked = record.image_params
    return Task(
        task_id=record.task_id,
        model_name=record.model_name,
        alias=record.alias,
        prompt=record.prompt,
        negative_prompt=record.negative_prompt,
        image_params=ImageParams(
            width=asked.width or 0,
            height=asked.height or 0,
            steps=asked.steps or 0,
            guidance_scale=asked.guidance_scale or 0.0,
            seed=asked.seed or 0,
            num_images=asked.num_images or 1,
            format=asked.format or DEFAULT_FORMAT,
            scheduler=asked.scheduler or "",
        ),
        loras=record.loras,
        user_id=record.user_id,
        topic=lane,
        start_within=record.start_within,
        created_at=created_at,
        fingerprint=record.fingerprint,
        requires=record.requires,
    )


def _params(asked: RequestedParams, card: RunnerCard, task_id: str) -> ImageParams:
    width = asked.width or card.width
    height = asked.height or card.height
    for field, side in (("width", width), ("height", height)):
        _check_side(field, side, card)
    if width * height > card.max_pixels:
        raise SizeNotSupported(
            f"{width}x{height} is more than the {card.max_pixels} pixels {card.model} makes at most.",
            field="image_params",
        )
    steps = asked.steps or card.steps
    if steps > card.max_steps:
        raise TooManySteps(f"{card.model} takes at most {card.max_steps} steps.", field="image_params.steps")
    num_images = asked.num_images or 1
    if num_images > card.max_num_images or num_images * width * height > card.pixel_budget:
        most = min(card.max_num_images, max(1, card.pixel_budget // (width * height)))
        raise TooManyImages(
            f"{card.model} makes at most {most} pictures of {width}x{height} in one task.",
            field="image_params.num_images",
        )
    scheduler = asked.scheduler or card.default_scheduler
    if scheduler not in card.schedulers:
        raise UnknownScheduler(
            f"{card.model} has no scheduler {scheduler!r}. Schedulers: {', '.join(card.schedulers)}.",
            field="image_params.scheduler",
            allowed=list(card.schedulers),
        )
    return ImageParams(
        width=width,
        height=height,
        steps=steps,
        guidance_scale=card.guidance_scale if asked.guidance_scale is None else asked.guidance_scale,
        seed=seed_of(task_id) if asked.seed is None else asked.seed,
        num_images=num_images,
        format=asked.format or DEFAULT_FORMAT,
        scheduler=scheduler,
    )


def _check_side(field: str, side: int, card: RunnerCard) -> None:
    if side % card.size_multiple or not card.min_side <= side <= card.max_side:
        raise SizeNotSupported(
            f"{field} {side} is not possible: {card.model} takes multiples of {card.size_multiple} "
            f"from {card.min_side} to {card.max_side}.",
            field=f"image_params.{field}",
        )


def _check_words(request: GenerateRequest, card: RunnerCard) -> None:
    for field in ("prompt", "negative_prompt"):
        length = len(getattr(request, field))
        if length > card.max_prompt_length:
            raise PromptTooLong(
                f"{field} has {length} characters; {card.model} takes at most {card.max_prompt_length}.", field=field
            )
    if request.negative_prompt and not card.negative_prompt:
        raise NegativePromptNotSupported(f"{card.model} takes no negative prompt.", field="negative_prompt")


def _check_loras(request: GenerateRequest, card: RunnerCard) -> None:
    if len(request.loras) > card.max_loras:
        raise UnknownLora(f"{card.model} takes at most {card.max_loras} LoRAs in one task.", field="loras")
    seen: set[str] = set()
    for index, lora in enumerate(request.loras):
        if lora.name not in card.loras:
            raise UnknownLora(
                f"{card.model} has no LoRA {lora.name!r}. LoRAs: {', '.join(card.loras) or 'none'}.",
                field=f"loras.{index}",
                allowed=list(card.loras),
            )
        if lora.name in seen:
            raise UnknownLora(f"The LoRA {lora.name!r} is named twice.", field=f"loras.{index}")
        seen.add(lora.name)
