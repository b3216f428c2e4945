"""The local view: what the log says about each task, in SQLite, so that bodies stay out of memory.

Disposable: it is rebuilt from the log; offsets are kept in the same transaction as what was read. One thread uses it.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.capabilities import ServedModel
from tasks.errors import TaskError, from_code
from tasks.events import Event, Outcome
from tasks.log import Partition, Place, Record
from tasks.reading import CardRead, EventRead, Reading, TaskRead, Unreadable, read_record
from tasks.state import TaskState, apply
from tasks.task import Task

VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
  task_id TEXT PRIMARY KEY, partition INTEGER NOT NULL, topic TEXT, "offset" INTEGER,
  body BLOB, refusal BLOB, outcome BLOB,
  status TEXT NOT NULL DEFAULT 'queued', attempt INTEGER NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0,
  owner TEXT NOT NULL DEFAULT '', step INTEGER NOT NULL DEFAULT 0, steps INTEGER NOT NULL DEFAULT 0,
  cancel_requested INTEGER NOT NULL DEFAULT 0, delay REAL NOT NULL DEFAULT 0, updated_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_status ON tasks (status, updated_at);
CREATE TABLE IF NOT EXISTS offsets (topic TEXT, partition INTEGER, next INTEGER, PRIMARY KEY (topic, partition));
CREATE TABLE IF NOT EXISTS cards (model TEXT PRIMARY KEY, body BLOB);
"""
_STATE = "status, attempt, tries, owner, step, steps, cancel_requested, delay"
_STATE_SET = ", ".join(f"{name} = ?" for name in _STATE.split(", "))


@dataclass(frozen=True, slots=True)
class TaskChange:
    """A task record was applied. `state` is what is known of the task. `first` is False for another record of a task
    whose record was already applied. `refusal`: see TaskRead."""

    task: Task
    place: Place
    state: TaskState
    first: bool
    refusal: TaskError | None


@dataclass(frozen=True, slots=True)
class EventChange:
    """An event was applied. It moved its task if `before` and `after` differ."""

    event: Event
    partition: Partition
    before: TaskState
    after: TaskState


Change = TaskChange | EventChange | CardRead | Unreadable


@dataclass(frozen=True, slots=True)
class TaskView:
    """All the log says about one task. `task` and `place` are None while only events about it were read."""

    task_id: str
    task: Task | None
    place: Place | None
    partition: Partition
    state: TaskState
    outcome: Outcome | None
    updated_at: float
    refusal: TaskError | None = None


class View:
    """The view of one process."""

    def __init__(self, path: Path | str, lanes: Sequence[str]) -> None:
        """Open the file, or make it; one that another version wrote, or that is broken, is made anew. An empty path
        is a temporary file."""
        self._lanes = lanes
        self._db = _open(str(path))
        self._cards = {
            model: ServedModel.model_validate_json(body)
            for model, body in self._db.execute("SELECT model, body FROM cards")
        }

    def apply(self, records: Sequence[Record]) -> list[Change]:
        """Apply records in one transaction with the offsets behind them, and return what each of them changed."""
        changes: list[Change] = []
        ends: dict[tuple[str, Partition], int] = {}
        with self._db:
            for record in records:
                reading = read_record(record, self._cards, self._lanes)
                if reading is not None:
                    changes.append(self._apply(reading))
                ends[record.place.topic, record.place.partition] = record.place.offset + 1
            self._db.executemany(
                "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)", [(*key, end) for key, end in ends.items()]
            )
        return changes

    def get(self, task_id: str) -> TaskView | None:
        """What is known of the task; None: nothing."""
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

    def cards(self) -> Mapping[str, ServedModel]:
        """What each model can do, by model name."""
        return self._cards

    def offsets(self) -> dict[tuple[str, Partition], int]:
        """The next offset to read, by (topic, partition)."""
        return {
            (topic, partition): end
            for topic, partition, end in self._db.execute("SELECT topic, partition, next FROM offsets")
        }

    def unfinished(self, partition: Partition | None = None) -> Iterator[TaskView]:
        """Every known task without an outcome, of one partition or all, in the order of their records."""
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
        """Drop all that is known of these partitions."""
        with self._db:
            for partition in partitions:
                self._db.execute("DELETE FROM tasks WHERE partition = ?", (partition,))
                self._db.execute("DELETE FROM offsets WHERE partition = ?", (partition,))

    def prune(self, before: float) -> int:
        """Drop ended tasks last heard of before then (Unix seconds); how many went."""
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
            case CardRead(card):
                self._cards[card.model] = card
                self._db.execute("INSERT OR REPLACE INTO cards VALUES (?, ?)", (card.model, card.model_dump_json()))
        return reading

    def _apply_task(self, read: TaskRead) -> TaskChange:
        task, place, refusal = read.task, read.place, read.refusal
        row = self._db.execute(
            f"SELECT body IS NOT NULL, {_STATE} FROM tasks WHERE task_id = ?", (task.task_id,)
        ).fetchone()
        state = _state(row[1:]) if row else TaskState()
        if row and row[0]:
            return TaskChange(task, place, state, first=False, refusal=refusal)
        self._db.execute(
            'INSERT INTO tasks (task_id, partition, topic, "offset", body, refusal, updated_at) '
            "VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (task_id) DO UPDATE SET partition = excluded.partition, topic = excluded.topic, "
            '"offset" = excluded."offset", body = excluded.body, refusal = excluded.refusal',
            (
                task.task_id,
                place.partition,
                place.topic,
                place.offset,
                task.model_dump_json(),
                json.dumps([refusal.code(), refusal.detail]) if refusal else None,
                task.created_at,
            ),
        )
        return TaskChange(task, place, state, first=True, refusal=refusal)

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


def _open(path: str) -> sqlite3.Connection:
    try:
        db = _connect(path)
        if db.execute("PRAGMA user_version").fetchone()[0] == VERSION:
            return db
        fresh = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        db.close()
    except sqlite3.DatabaseError:
        fresh = False
    if not fresh:
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(path + suffix).unlink()
    db = _connect(path)
    db.executescript(_SCHEMA)
    db.execute(f"PRAGMA user_version = {VERSION}")
    return db


def _connect(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False, cached_statements=256)
    # The view is rebuilt from the log, so it need not survive a power cut.
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    return db
