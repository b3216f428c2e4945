"""A field of a request is declared once and reaches every form of the task."""

import pytest

from tasks.accept import accept, unaccepted
from tasks.runner_api import RunRequest
from tasks.task import (
    DrawingFields,
    GenerateRequest,
    ImageParams,
    RecordFields,
    RequestedParams,
    Task,
    TaskFields,
    TaskRecord,
    shared_fields,
)
from tests.support.world import LANES, card

FULL = {
    "model_name": "sd-mini",
    "prompt": "a red circle",
    "negative_prompt": "blue",
    "loras": [{"name": "night", "weight": 0.5}],
    "max_runtime": 60.0,
    "user_id": "somebody",
    "start_within": 600.0,
    "previews": True,
}
RECORDED = {"alias": "other", "fingerprint": "f", "request_sha256": "s", "traceparent": "t", "requires": ["mask"]}
RECORDED["inputs"] = [{"name": "image", "key": "inputs/somebody/1", "content_type": "image/png"}]


@pytest.mark.parametrize("form", [GenerateRequest, TaskRecord, Task])
def test_every_form_of_a_task_has_the_fields_a_client_may_set(form: type[TaskFields]):
    assert set(TaskFields.model_fields) <= set(form.model_fields)


def test_this_test_names_every_shared_field():
    assert set(FULL) == set(TaskFields.model_fields)
    assert set(RECORDED) == set(RecordFields.model_fields)
    assert set(ImageParams.model_fields) == {*RequestedParams.model_fields, "drawn_at"}


@pytest.mark.parametrize("refused", [False, True])
def test_every_field_of_a_record_reaches_the_task_accepted_or_not(refused: bool):
    record = TaskRecord.model_validate(FULL | RECORDED | {"task_id": "0" * 32})
    if refused:
        task = unaccepted(record, LANES[0], 1.0)
    else:
        task = accept(
            record, task_id=record.task_id, models={"sd-mini": card(inputs=("image",))}, lanes=LANES, created_at=1.0
        )
    carried = task.model_dump(mode="json", include=set(FULL | RECORDED))
    assert carried == FULL | RECORDED


def test_the_runner_is_sent_what_the_images_show():
    task = accept(
        GenerateRequest.model_validate(FULL), task_id="0" * 32, models={"sd-mini": card()}, lanes=LANES, created_at=1.0
    )
    request = RunRequest.model_validate(
        shared_fields(task, DrawingFields) | task.image_params.model_dump() | {"task_id": task.task_id}
    )
    for fields in (DrawingFields, ImageParams):
        assert set(fields.model_fields) <= set(RunRequest.model_fields)
    assert request.loras == task.loras
    assert (request.width, request.scheduler) == (64, "euler")
