"""The table of a folder registry: an SQLite file, its transactions, and its errors in words."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huref.errors import DiskError, RegistryError
from huref.files import FULL

NAME = "registry.sqlite"
PATIENCE = 60.0  # seconds to wait for another writer
SCHEMA = (
    "CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE segments (name TEXT PRIMARY KEY, size INTEGER NOT NULL)",
    """CREATE TABLE entries (
        model TEXT NOT NULL, revision TEXT NOT NULL, base TEXT,
        measured_at TEXT NOT NULL, measured_by TEXT NOT NULL,
        segment TEXT NOT NULL REFERENCES segments, place INTEGER NOT NULL,
        PRIMARY KEY (model, revision), UNIQUE (segment, place)
    )""",
)


def connect(folder: Path, mode: str) -> sqlite3.Connection:
    """Open the table, "rw", or "rwc" to create it.

    Readers too, so that one can undo what a writer that died left half-done.
    """
    uri = f"{(folder / NAME).resolve().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None)


def read_format(db: sqlite3.Connection) -> int:
    """The version of the table's layout; 0 when nothing was committed to it."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def transaction(db: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """What is done in it commits whole or not at all; IMMEDIATE waits for other writers."""
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """SQLite's and the disk's errors inside the block become RegistryErrors to act on."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        reason = {
            sqlite3.SQLITE_BUSY: "another process has been writing to it; try again later",
            sqlite3.SQLITE_LOCKED: "another process has been writing to it; try again later",
            sqlite3.SQLITE_FULL: "no space left on the disk; nothing was changed",
            sqlite3.SQLITE_READONLY: "it cannot be written to; nothing was changed",
            sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
            sqlite3.SQLITE_IOERR: "the disk failed; nothing was changed",
        }.get(code, "damaged; restore the registry from a copy, or make it again")
        raise RegistryError(f"{folder}: {reason} ({error})") from error
    except DiskError as error:
        broke = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO
        reason = "the disk failed" if broke else "no space left on the disk"
        raise RegistryError(f"{folder}: {reason}; nothing was changed ({error})") from error
    except OSError as error:
        if error.errno in FULL:
            raise RegistryError(
                f"{folder}: no space left on the disk; nothing was changed"
            ) from error
        raise RegistryError(
            f"{error.filename or folder}: {error.strerror or error}; if it was lost, restore the "
            "registry from a copy, or make it again"
        ) from error
