"""Whether a request is the one that an earlier task was made of: what an Idempotency-Key is checked against.

A retry may meet another gateway, of another version, with other lanes, models and keys, so nothing of these counts:
only what the client sent does. Values that were not sent, or that equal their defaults, are left out, so that a field
which only a newer version has does not turn a retry into another request. A name of a lane counts in its short form. An
alias and its model are two requests: an alias may ask for other sizes (a stand-in), and it may mean another model by
the time of the retry. The user does not count, because the task's id is already made of the user and the key.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from tasks.names import short_lane
from tasks.task import GenerateRequest, Task

_FIELDS = (
    "model_name",
    "prompt",
    "negative_prompt",
    "image_params",
    "loras",
    "user_id",
    "topic",
    "start_within",
    "max_runtime",
    "previews",
)
_PARAMS = ("width", "height", "steps", "guidance_scale", "seed", "num_images", "format", "scheduler")
_LORA = ("name", "weight")
"""The fields of version 0.1.0, in the order of its JSON."""


def request_sha256(request: GenerateRequest, topic_prefix: str) -> str:
    """SHA-256 of what the client sent. Equal for bodies that differ only in the order of keys, in spaces and escapes,
    in the form of a number or of a lane's name, or in values that equal their defaults."""
    sent = request.model_dump(mode="json", exclude_unset=True, exclude_defaults=True, exclude={"user_id"})
    if "topic" in sent:
        sent["topic"] = sent["topic"].removeprefix(f"{topic_prefix}.")
    if not sent.get("image_params"):
        sent.pop("image_params", None)
    return hashlib.sha256(json.dumps(_plain(sent), sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """The value with each whole number as an integer: 1.0 is 1, and -0.0 is 0."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fingerprint(request: GenerateRequest) -> str:
    """The fingerprint of version 0.1.0, whose gateways compare nothing else: SHA-256 of the parsed request with its
    defaults, its user and its lane as written. A newer field counts where it is set."""
    fields = _as_written(request, _FIELDS)
    fields["image_params"] = _as_written(request.image_params, _PARAMS)
    fields["loras"] = [_as_written(lora, _LORA) for lora in request.loras]
    return hashlib.sha256(to_json(fields)).hexdigest()


def _as_written(model: BaseModel, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(model, name) for name in (*names, *sorted(model.model_fields_set - set(names)))}


def is_request_of(task: Task, request: GenerateRequest, topic_prefix: str) -> bool:
    """Whether the task was made of this request."""
    if task.request_sha256 is not None:
        return task.request_sha256 == request_sha256(request, topic_prefix)
    # A gateway of 0.1.0 wrote the task. It fingerprinted the lane that it chose if the key was limited to some lanes.
    topics = {request.topic}
    if request.topic is None:
        topics.add(task.topic)
    elif short_lane(request.topic) == short_lane(task.topic):
        topics |= {task.topic, short_lane(task.topic)}
    return task.fingerprint in {fingerprint(request.model_copy(update={"topic": topic})) for topic in topics}
