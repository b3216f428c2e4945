"""The samples, and today's reader of each."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from adapters.kafka_commit_times import metadata_ms
from tasks.capabilities import ServedModel
from tasks.events import parse_event
from tasks.runner_api import Decoder, RunRequest
from tasks.task import GenerateRequest, TaskRecord

SAMPLES = Path(__file__).parent / "samples"
VERSIONS = sorted(folder.name for folder in SAMPLES.iterdir())
FROM_THE_FUTURE = "a_field_from_the_future"
NAMES = {"metadata", "acceleration"}
"""Objects whose keys are names, not fields."""


def sample(version: str, name: str) -> Any:
    """The sample of this name that this version wrote."""
    return json.loads((SAMPLES / version / f"{name}.json").read_text())


def samples(prefix: str = "") -> list[tuple[str, str]]:
    """The version and the name of every sample whose name begins with the prefix."""
    return [(version, file.stem) for version in VERSIONS for file in sorted((SAMPLES / version).glob(f"{prefix}*"))]


def _event(value: bytes) -> Any:
    event = parse_event(value)
    assert event is not None
    return event


MODELS: Mapping[str, Callable[[bytes], Any]] = {
    "request": GenerateRequest.model_validate_json,
    "task": TaskRecord.model_validate_json,
    "task_by_hand": TaskRecord.model_validate_json,
    "task_with_defaults": TaskRecord.model_validate_json,
    "card": ServedModel.model_validate_json,
    "run_request": RunRequest.model_validate_json,
    "started": _event,
    "progress": _event,
    "cancel_requested": _event,
    "released_to_try_again": _event,
    "released_by_a_consumer_that_ends": _event,
    "outcome_completed": _event,
    "outcome_failed": _event,
    "outcome_canceled": _event,
    "outcome_expired": _event,
}
"""The reader of every sample that is one JSON object of a model."""
OTHERS: Mapping[str, Callable[[Any], object]] = {
    "frames": lambda frames: list(Decoder().feed(bytes.fromhex("".join(frames)))),
    "commit": lambda commit: metadata_ms(commit["metadata"]),
    "view": lambda view: view["user_version"],
}


def read(name: str, value: Any) -> Any:
    """The sample as today's code reads it."""
    return MODELS[name](json.dumps(value).encode())


def as_json(model: BaseModel) -> Any:
    """The record that was read, as JSON."""
    return model.model_dump(mode="json")


def keeps(kept: Any, given: Any) -> bool:
    """Whether every known field that was given is kept; unknown fields may be missing."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return all(keeps(kept[name], value) for name, value in given.items() if name in kept)
    if isinstance(given, list) and isinstance(kept, list):
        return len(kept) == len(given) and all(map(keeps, kept, given))
    return bool(kept == given)


def contains(kept: Any, given: Any) -> bool:
    """Whether every field that was given is kept, unknown ones too; further fields do not matter."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return all(name in kept and contains(kept[name], value) for name, value in given.items())
    if isinstance(given, list) and isinstance(kept, list):
        return len(kept) == len(given) and all(map(contains, kept, given))
    return bool(kept == given)


def with_more(value: Any) -> Any:
    """The value with an unknown field in every object of it, except objects whose keys are names."""
    if isinstance(value, list):
        return [with_more(item) for item in value]
    if isinstance(value, dict):
        more = {name: item if name in NAMES else with_more(item) for name, item in value.items()}
        return more | {FROM_THE_FUTURE: {"a": [1]}}
    return value


def without_each_field(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The path of every field at any depth, with the value that lacks this field."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield ".".join((*path, name)), {key: kept for key, kept in value.items() if key != name}
            for where, less in without_each_field(item, (*path, name)):
                yield where, value | {name: less}
