"""Records of an older version are read; what a newer version adds is kept or skipped."""

import json
from typing import Any

import pytest

from adapters.kafka_commit_times import metadata_ms
from tasks.events import Outcome
from tests.proofs.upgrade.reading import (
    FROM_THE_FUTURE,
    MODELS,
    OTHERS,
    VERSIONS,
    as_json,
    contains,
    keeps,
    read,
    sample,
    samples,
    with_more,
    without_each_field,
)

BY_MODEL = [(version, name) for version, name in samples() if name in MODELS]
STRICT = {"request"}
"""Requests of users: an unknown field is refused."""
REQUIRED = {
    "task": {"task_id", "model_name", "prompt"},
    "card": {
        *("model", "family", "width", "height", "size_multiple", "min_side", "max_side", "max_pixels", "steps"),
        *("max_steps", "guidance_scale", "schedulers", "default_scheduler", "max_prompt_length", "pixel_budget"),
        "seconds_per_megapixel_step",
    },
    "run_request": {
        *("task_id", "model_name", "prompt", "width", "height", "steps", "guidance_scale", "seed", "scheduler")
    },
}
"""The fields that every version wrote. These sets never grow, because older records lack newer fields."""


def test_there_are_samples_and_each_has_a_reader():
    assert VERSIONS
    assert {name for _, name in samples()} <= {*MODELS, *OTHERS}
    for version in VERSIONS:
        assert {name for v, name in samples() if v == version} >= {*MODELS, *OTHERS} or version > "0.1.0"


@pytest.mark.parametrize(("version", "name"), BY_MODEL)
def test_every_field_of_a_sample_is_read(version: str, name: str):
    value = sample(version, name)
    assert keeps(as_json(read(name, value)), value)


@pytest.mark.parametrize(("version", "name"), [(version, name) for version, name in samples() if name in OTHERS])
def test_a_sample_that_is_not_a_json_model_is_read(version: str, name: str):
    assert OTHERS[name](sample(version, name))


@pytest.mark.parametrize(("version", "name"), [(version, name) for version, name in BY_MODEL if name not in STRICT])
def test_unknown_fields_change_nothing_at_any_depth(version: str, name: str):
    value = sample(version, name)
    assert keeps(as_json(read(name, with_more(value))), as_json(read(name, value)))


@pytest.mark.parametrize(("version", "name"), samples("outcome"))
def test_a_stored_outcome_is_announced_with_every_field_of_a_newer_version(version: str, name: str):
    value = sample(version, name)
    for part in (value, value["task"], value["task"]["image_params"], value["timings"], *value["images"]):
        part[FROM_THE_FUTURE] = {"a": [1]}
    if value["error"]:
        value["error"][FROM_THE_FUTURE] = 1
    announced = json.loads(Outcome.model_validate(value).model_dump_json())
    # This version may add its own fields: their defaults mean the same as their absence.
    assert contains(announced, value)
    assert Outcome.model_validate(announced) == Outcome.model_validate(value)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_record_of_a_version_that_did_not_know_a_field_is_read(name: str):
    for version in VERSIONS:
        for path, reduced in without_each_field(sample(version, name)):
            if path.split(".")[0] not in REQUIRED[name] and not path.startswith("loras"):
                assert read(name, reduced) is not None, path


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("outcome_completed", {"status": "completed_in_part"}),
        ("outcome_failed", {"error": {"code": "a_code_from_the_future", "message": "It is new."}}),
        ("outcome_completed", {"acceleration": {"cache": {"kind": "new", "share": 0.5}}}),
        ("released_to_try_again", {"code": "a_code_from_the_future"}),
        ("card", {"family": "a_family_from_the_future", "acceleration": {"cache": {"kind": "new"}}}),
    ],
)
def test_an_unknown_value_is_kept_unchanged(name: str, more: dict[str, Any]):
    for version in VERSIONS:
        assert keeps(as_json(read(name, sample(version, name) | more)), more)


def test_an_outcome_with_an_unknown_image_format_and_lane_is_read():
    for version in VERSIONS:
        value = sample(version, "outcome_completed")
        value["task"]["image_params"]["format"] = "avif"
        value["task"]["topic"] = "ai_image_gen.a_lane_from_the_future"
        assert keeps(as_json(read("outcome_completed", value)), value)


@pytest.mark.parametrize("status", ["queued", "running"])
def test_an_outcome_with_the_status_of_an_unfinished_task_is_refused(status: str):
    with pytest.raises(ValueError, match="does not end"):
        read("outcome_completed", sample(VERSIONS[0], "outcome_completed") | {"status": status})


@pytest.mark.parametrize("metadata", ["", None, "2;1800000058000", '{"at": 1800000058000}', "-1", "1.5", "\u0661"])
def test_a_commit_with_unknown_metadata_makes_the_owner_read_all_events(metadata: str | None):
    assert metadata_ms(metadata) == 0
