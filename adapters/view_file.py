"""The file of the view: its tables and their version."""

import sqlite3
import zlib
from contextlib import suppress
from pathlib import Path

from tasks.task import UNDERSTOOD_FIELDS

TABLES = 1
"""The version of the tables. Raise it with every change of the tables."""
VERSION = TABLES + 256 * (zlib.crc32(",".join(sorted(UNDERSTOOD_FIELDS)).encode()) & 0x7FFFFF)
"""The number stored in the file: the version of the tables, and which fields the writer understood. A version that
understands more fields replaces the file, because it may hold tasks that its writer refused as NotUnderstood."""
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


def open_view_file(path: str) -> sqlite3.Connection:
    """Open the file, or create it. A file that is damaged, or that has the tables of another version, is replaced by an
    empty one: the view is then rebuilt from the log. An empty path means a temporary file."""
    db = sqlite3.connect(path, check_same_thread=False, cached_statements=256)
    try:
        if _configured(db).execute("PRAGMA user_version").fetchone()[0] == VERSION:
            return db
        is_new = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.DatabaseError:
        is_new = False
    db.close()
    if not is_new:
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(path + suffix).unlink()
    db = _configured(sqlite3.connect(path, check_same_thread=False, cached_statements=256))
    db.executescript(_SCHEMA)
    db.execute(f"PRAGMA user_version = {VERSION}")
    return db


def _configured(db: sqlite3.Connection) -> sqlite3.Connection:
    # The view is rebuilt from the log, so it need not survive a power failure.
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    return db
