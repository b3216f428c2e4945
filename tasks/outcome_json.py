"""`outcome.json`, the commit point of a task: how it is read, and how a forged outcome is recognised."""

import re

from pydantic import ValidationError

from tasks.errors import StoreUnavailable, UntrustedOutcome
from tasks.events import Outcome, StoredImage
from tasks.object_keys import is_image_key, is_task_id

_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_outcome(task_id: str, data: bytes) -> Outcome:
    """The stored outcome.

    Raises UntrustedOutcome if it is not an outcome of this task. Raises StoreUnavailable if this version cannot read
    it: the task has ended and must not run again, so the caller must treat this like a store that does not answer.
    """
    try:
        outcome = Outcome.model_validate_json(data)
    except ValidationError as error:
        raise StoreUnavailable("This version cannot read how the task ended.", retry_after=2) from error
    if outcome.task_id != task_id or contradiction(outcome):
        raise UntrustedOutcome
    return outcome


def contradiction(outcome: Outcome) -> str:
    """Why no owner of the task can have written this outcome, in one sentence; empty if one can."""
    if not is_task_id(outcome.task_id) or outcome.task.task_id != outcome.task_id:
        return "task_id: the outcome and its task have different ids, or the id is none"
    if len(outcome.images) > outcome.task.image_params.num_images:
        return "images: there are more images than the task asks for"
    if not all(_may_belong(image, outcome.task_id) for image in outcome.images):
        return "images: an image is not in the folder of the task, or its size or hash is none"
    return ""


def _may_belong(image: StoredImage, task_id: str) -> bool:
    return is_image_key(image.key, task_id) and image.size >= 0 and _SHA256.fullmatch(image.sha256) is not None
