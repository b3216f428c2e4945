"""What an older version wrote is still read, and what a newer one adds is kept or skipped."""

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
    contains,
    keeps,
    read,
    sample,
    samples,
    told,
    with_more,
    without_one,
)

BY_MODEL = [(version, name) for version, name in samples() if name in MODELS]
STRICT = {"request"}
"""What a person sends is refused where it is not understood."""
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
"""What a reader could always count on. It never grows: older records lack what is newer."""


def test_there_are_samples_and_each_has_a_reader():
    assert VERSIONS
    assert {name for _, name in samples()} <= {*MODELS, *OTHERS}
    for version in VERSIONS:
        assert {name for v, name in samples() if v == version} >= {*MODELS, *OTHERS} or version > "0.1.0"


@pytest.mark.parametrize(("version", "name"), BY_MODEL)
def test_a_sample_is_read_and_nothing_it_says_is_lost(version: str, name: str):
    value = sample(version, name)
    assert keeps(told(read(name, value)), value)


@pytest.mark.parametrize(("version", "name"), [one for one in samples() if one[1] in OTHERS])
def test_what_is_no_json_of_a_model_is_read_too(version: str, name: str):
    assert OTHERS[name](sample(version, name))


@pytest.mark.parametrize(("version", "name"), [one for one in BY_MODEL if one[1] not in STRICT])
def test_fields_nobody_knows_yet_change_nothing_at_any_depth(version: str, name: str):
    value = sample(version, name)
    assert keeps(told(read(name, with_more(value))), told(read(name, value)))


@pytest.mark.parametrize(("version", "name"), samples("outcome"))
def test_an_outcome_found_in_the_store_is_announced_with_all_a_newer_version_put_into_it(version: str, name: str):
    value = sample(version, name)
    for part in (value, value["task"], value["task"]["image_params"], value["timings"], *value["images"]):
        part[FROM_THE_FUTURE] = {"a": [1]}
    if value["error"]:
        value["error"][FROM_THE_FUTURE] = 1
    announced = json.loads(Outcome.model_validate(value).model_dump_json())
    # This version may add fields of its own, with their defaults: they say what their absence meant.
    assert contains(announced, value)
    assert Outcome.model_validate(announced) == Outcome.model_validate(value)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_record_of_a_version_that_did_not_know_a_field_is_read(name: str):
    for version in VERSIONS:
        for where, less in without_one(sample(version, name)):
            if where.split(".")[0] not in REQUIRED[name] and not where.startswith("loras"):
                assert read(name, less) is not None, where


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
def test_a_value_nobody_knows_yet_is_kept_as_it_is(name: str, more: dict[str, Any]):
    for version in VERSIONS:
        assert keeps(told(read(name, sample(version, name) | more)), more)


def test_an_outcome_of_a_picture_format_or_lane_nobody_knows_yet_is_read():
    for version in VERSIONS:
        value = sample(version, "outcome_completed")
        value["task"]["image_params"]["format"] = "avif"
        value["task"]["topic"] = "ai_image_gen.a_lane_from_the_future"
        assert keeps(told(read("outcome_completed", value)), value)


@pytest.mark.parametrize("status", ["queued", "running"])
def test_no_outcome_says_that_a_task_goes_on(status: str):
    with pytest.raises(ValueError, match="does not end"):
        read("outcome_completed", sample(VERSIONS[0], "outcome_completed") | {"status": status})


@pytest.mark.parametrize("metadata", ["", None, "2;1800000058000", '{"at": 1800000058000}', "-1", "1.5", "\u0661"])
def test_a_commit_whose_note_is_not_understood_lets_all_events_be_read(metadata: str | None):
    assert metadata_ms(metadata) == 0
