"""`outcome.json`, the commit point of a task: its key in the store, and how it is read."""

from pydantic import ValidationError

from tasks.errors import StoreUnavailable
from tasks.events import Outcome


def outcome_key(task_id: str) -> str:
    """The key of the task's outcome in the store."""
    return f"tasks/{task_id}/outcome.json"


def read_outcome(task_id: str, data: bytes) -> Outcome:
    """The stored outcome. Raises StoreUnavailable if this version cannot read it: the task has ended and must not run
    again, so the caller must treat this like a store that does not answer."""
    try:
        return Outcome.model_validate_json(data)
    except ValidationError as error:
        raise StoreUnavailable(f"This version cannot read how task {task_id} ended.", retry_after=2) from error
