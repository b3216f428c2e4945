"""`outcome.json`, the commit point of a task: its name in the store, and how it is read."""

from pydantic import ValidationError

from tasks.errors import StoreUnavailable
from tasks.events import Outcome


def outcome_key(task_id: str) -> str:
    """The object name of the task's outcome."""
    return f"tasks/{task_id}/outcome.json"


def read_outcome(task_id: str, data: bytes) -> Outcome:
    """The stored outcome. Raises StoreUnavailable where this version cannot read it: the task has ended and must not
    run again, so the caller has to treat it like a store that does not answer."""
    try:
        return Outcome.model_validate_json(data)
    except ValidationError as error:
        raise StoreUnavailable(f"This version cannot read how task {task_id} ended.", retry_after=2) from error
