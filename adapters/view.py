"""The view: the local SQLite copy of what the log says about each task. It keeps the task bodies out of memory.

Everything in it is also in the log, so it can always be rebuilt. The offsets are written in the same transaction as the
records, so a view that is opened again continues exactly behind the last record that it applied. One thread uses it.
"""

import json
import logging
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.view_file import open_view_file
from tasks.capabilities import ServedModel
from tasks.errors import TaskError, from_code
from tasks.events import Event, Outcome
from tasks.log import Partition, Place, Record
from tasks.names import collisions
from tasks.reading import CardRead, EventRead, PreviewRead, Reading, TaskRead, Unreadable, read_record
from tasks.state import TaskState, apply
from tasks.task import Task

logger = logging.getLogger(__name__)

_STATE = "status, attempt, tries, owner, step, steps, cancel_requested, delay"
_STATE_SET = ", ".join(f"{name} = ?" for name in _STATE.split(", "))


@dataclass(frozen=True, slots=True)
class TaskChange:
    """A task record was applied. `state`: the state of the task after it. `first`: False if an earlier record with the
    same task id was applied before; then this record changed nothing. `refusal`: see TaskRead."""

    task: Task
    place: Place
    state: TaskState
    first: bool
    refusal: TaskError | None


@dataclass(frozen=True, slots=True)
class EventChange:
    """An event was applied. `before` and `after` are the states of its task; they are equal if it changed nothing."""

    event: Event
    partition: Partition
    before: TaskState
    after: TaskState


Change = TaskChange | EventChange | CardRead | PreviewRead | Unreadable


@dataclass(frozen=True, slots=True)
class TaskView:
    """What the log says about one task. `task` and `place` are None if only events about it were read so far."""

    task_id: str
    task: Task | None
    place: Place | None
    partition: Partition
    state: TaskState
    outcome: Outcome | None
    updated_at: float
    refusal: TaskError | None = None


class View:
    """The view of one process: rows for tasks, models and offsets."""

    def __init__(self, path: Path | str, lanes: Sequence[str]) -> None:
        """Open or create the file. A file that is damaged or that another version wrote is replaced by an empty one. An
        empty path means a temporary file. `lanes`: the full topic names."""
        self._lanes = lanes
        self._db = open_view_file(str(path))
        # A process that is killed, or a test that ends one, drops its view without closing it.
        weakref.finalize(self, self._db.close)
        self._models = {
            model: ServedModel.model_validate_json(body)
            for model, body in self._db.execute("SELECT model, body FROM cards")
        }
        self._report_collisions(())

    def apply(self, records: Sequence[Record]) -> list[Change]:
        """Apply the records and their offsets in one transaction, and return what each record changed. Previews are
        returned, but neither they nor their offsets are stored."""
        changes: list[Change] = []
        ends: dict[tuple[str, Partition], int] = {}
        with self._db:
            for record in records:
                reading = read_record(record, self._models, self._lanes)
                if reading is not None:
                    changes.append(self._apply(reading))
                if record.kind != "preview":
                    ends[record.place.topic, record.place.partition] = record.place.offset + 1
            self._db.executemany(
                "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)", [(*key, end) for key, end in ends.items()]
            )
        return changes

    def get(self, task_id: str) -> TaskView | None:
        """What the log says about the task, or None if nothing was read about it."""
        row = self._db.execute(
            f'SELECT partition, topic, "offset", body, refusal, outcome, updated_at, {_STATE} '
            "FROM tasks WHERE task_id = ?",
            (task_id,),
        ).fetchone()
        if row is None:
            return None
        partition, topic, offset, body, refusal, outcome, updated_at, *state = row
        return TaskView(
            task_id=task_id,
            task=None if body is None else Task.model_validate_json(body),
            place=None if topic is None else Place(topic, partition, offset),
            partition=partition,
            state=_state(state),
            outcome=None if outcome is None else Outcome.model_validate_json(outcome),
            updated_at=updated_at,
            refusal=None if refusal is None else from_code(*json.loads(refusal)),
        )

    def models(self) -> Mapping[str, ServedModel]:
        """The models by name, each as its latest record says."""
        return self._models

    def offsets(self) -> dict[tuple[str, Partition], int]:
        """The next offset to read of each partition that was read, by (topic, partition)."""
        return {
            (topic, partition): end
            for topic, partition, end in self._db.execute("SELECT topic, partition, next FROM offsets")
        }

    def unfinished(self, partition: Partition | None = None) -> Iterator[TaskView]:
        """Every task that has a record and no outcome, of one partition or of all, in the order of their records."""
        ids = self._db.execute(
            "SELECT task_id FROM tasks WHERE status IN ('queued', 'running') AND body IS NOT NULL "
            'AND (? IS NULL OR partition = ?) ORDER BY "offset", partition',
            (partition, partition),
        ).fetchall()
        for (task_id,) in ids:
            view = self.get(task_id)
            if view is not None:
                yield view

    def forget(self, partitions: Collection[Partition]) -> None:
        """Delete all tasks and offsets of these partitions."""
        with self._db:
            for partition in partitions:
                self._db.execute("DELETE FROM tasks WHERE partition = ?", (partition,))
                self._db.execute("DELETE FROM offsets WHERE partition = ?", (partition,))

    def prune(self, before: float) -> int:
        """Delete ended tasks whose last event is older than `before` (Unix seconds). Returns how many were deleted."""
        with self._db:
            return self._db.execute(
                "DELETE FROM tasks WHERE status NOT IN ('queued', 'running') AND updated_at < ?", (before,)
            ).rowcount

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _apply(self, reading: Reading) -> Change:
        match reading:
            case TaskRead():
                return self._apply_task(reading)
            case EventRead():
                return self._apply_event(reading)
            case CardRead(model):
                before = collisions(self._models)
                self._models[model.model] = model
                self._report_collisions(before)
                self._db.execute("INSERT OR REPLACE INTO cards VALUES (?, ?)", (model.model, model.model_dump_json()))
        return reading

    def _report_collisions(self, before: Collection[str]) -> None:
        for sentence in collisions(self._models):
            if sentence not in before:
                logger.warning("%s", sentence)

    def _apply_task(self, read: TaskRead) -> TaskChange:
        task, place, refusal = read.task, read.place, read.refusal
        # One statement for every record but a repeated one: a submit waits until the gateway has read its record back.
        rows = self._db.execute(
            'INSERT INTO tasks (task_id, partition, topic, "offset", body, refusal, updated_at) '
            "VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (task_id) DO UPDATE SET partition = excluded.partition, topic = excluded.topic, "
            '"offset" = excluded."offset", body = excluded.body, refusal = excluded.refusal '
            f"WHERE tasks.body IS NULL RETURNING {_STATE}",
            (
                task.task_id,
                place.partition,
                place.topic,
                place.offset,
                task.model_dump_json(),
                json.dumps([refusal.code(), refusal.detail]) if refusal else None,
                task.created_at,
            ),
        ).fetchall()
        first = bool(rows)
        if not first:
            rows = self._db.execute(f"SELECT {_STATE} FROM tasks WHERE task_id = ?", (task.task_id,)).fetchall()
        return TaskChange(task, place, _state(rows[0]), first=first, refusal=refusal)

    def _apply_event(self, read: EventRead) -> EventChange:
        event = read.event
        row = self._db.execute(f"SELECT {_STATE} FROM tasks WHERE task_id = ?", (event.task_id,)).fetchone()
        before = _state(row) if row else TaskState()
        after = apply(before, event)
        if not row:
            self._db.execute(
                "INSERT INTO tasks (task_id, partition, updated_at) VALUES (?, ?, ?)",
                (event.task_id, read.partition, read.timestamp),
            )
        if after != before:
            outcome = event.model_dump_json() if isinstance(event, Outcome) else None
            self._db.execute(
                f"UPDATE tasks SET {_STATE_SET}, updated_at = ?, outcome = ? WHERE task_id = ?",
                (
                    after.status,
                    after.attempt,
                    after.tries,
                    after.owner,
                    after.step,
                    after.steps,
                    after.cancel_requested,
                    after.delay,
                    read.timestamp,
                    outcome,
                    event.task_id,
                ),
            )
        return EventChange(event, read.partition, before, after)


def _state(row: Sequence[object]) -> TaskState:
    status, attempt, tries, owner, step, steps, cancel_requested, delay = row
    return TaskState(status, attempt, tries, owner, step, steps, bool(cancel_requested), delay)  # type: ignore[arg-type]
