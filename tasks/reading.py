"""`read_record`: what a record of the log means. It is a pure function of the record, the models and the lanes.

Any Kafka client may write to a lane, so a task record passes the same `accept` as a request over HTTP. No record is
dropped here: a task that cannot be done gets a refusal, and a record that cannot be read becomes `Unreadable`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from tasks.accept import accept, unaccepted
from tasks.capabilities import ServedModel
from tasks.errors import NotUnderstood, TaskError
from tasks.events import Event, Outcome, parse_event
from tasks.log import Partition, Place, Record
from tasks.names import find_lane
from tasks.outcome_json import contradiction
from tasks.preview import Preview
from tasks.task import UNDERSTOOD_FIELDS, Task, TaskRecord


@dataclass(frozen=True, slots=True)
class TaskRead:
    """A task. `refusal` is the error with which it must end, or None if it can run. The refusal NotUnderstood is not
    final: a newer version, which understands the task, may become the owner of the partition."""

    task: Task
    place: Place
    refusal: TaskError | None


@dataclass(frozen=True, slots=True)
class EventRead:
    """An event of a task. `timestamp` is the time at which the broker appended it, in Unix seconds."""

    event: Event
    partition: Partition
    timestamp: float


@dataclass(frozen=True, slots=True)
class CardRead:
    """A model: what its runners can do."""

    card: ServedModel


@dataclass(frozen=True, slots=True)
class PreviewRead:
    """A preview of a running attempt, which is never stored."""

    preview: Preview


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that this version cannot read. `reason` names the field that is wrong."""

    record: Record
    reason: str


Reading = TaskRead | EventRead | CardRead | PreviewRead | Unreadable


def read_record(record: Record, models: Mapping[str, ServedModel], lanes: Sequence[str]) -> Reading | None:
    """The meaning of a record. `models` holds the models that were read so far, by name; `lanes` the full topic names.
    None: an event of a kind that only a newer version writes, which is skipped."""
    try:
        match record.kind:
            case "task":
                return _read_task(record, models, lanes)
            case "event":
                return _read_event(record)
            case "card":
                return CardRead(ServedModel.model_validate_json(record.value))
            case "preview":
                return PreviewRead(Preview.model_validate_json(record.value))
    except ValidationError as error:
        return Unreadable(record, _reason(error))


def _read_event(record: Record) -> EventRead | Unreadable | None:
    event = parse_event(record.value)
    # A forged outcome must not end the task: its owner still works on it and will write the real one.
    if isinstance(event, Outcome) and (reason := contradiction(event)):
        return Unreadable(record, reason)
    return None if event is None else EventRead(event, record.place.partition, record.timestamp)


def _read_task(record: Record, models: Mapping[str, ServedModel], lanes: Sequence[str]) -> TaskRead:
    parsed = TaskRecord.model_validate_json(record.value)
    created_at = record.timestamp if parsed.created_at is None else parsed.created_at
    try:
        if unknown := sorted(set(parsed.requires) - UNDERSTOOD_FIELDS):
            raise NotUnderstood(f"The task requires a version that understands {', '.join(unknown)}.")
        task = accept(
            parsed.model_copy(update={"topic": find_lane(record.place.topic, lanes)}),
            task_id=parsed.task_id,
            models=models,
            lanes=lanes,
            created_at=created_at,
        )
    except NotUnderstood as error:
        # The owner waits NOT_UNDERSTOOD_WAIT seconds from this time for a newer version. A record whose `created_at` is
        # in the future must not make it wait longer.
        task = unaccepted(parsed, record.place.topic, min(created_at, record.timestamp))
        return TaskRead(task, record.place, error)
    except TaskError as error:
        return TaskRead(unaccepted(parsed, record.place.topic, created_at), record.place, error)
    return TaskRead(task, record.place, None)


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the record'}: {first['msg']}"
