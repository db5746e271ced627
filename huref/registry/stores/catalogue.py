"""The catalogue of a folder registry: an SQLite file, its transactions and its errors."""

import errno
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huref.errors import DiskError, HurefError, RegistryError, locating
from huref.files import FULL, refuse_link

NAME = "registry.sqlite"
PATIENCE = 60.0  # seconds to wait for another writer
NO_REGISTRY = "there is no registry"
MADE_ALREADY = "there is a registry already"
MAKE_ONE = "make one with 'huref registry init'"
RESTORE = "restore the registry from a copy, or make it again"
FREE_SPACE = "free some space and try again"
SIGNATURE_TABLE = """CREATE TABLE IF NOT EXISTS signatures (
    model TEXT NOT NULL, revision TEXT NOT NULL, signer TEXT NOT NULL, signature TEXT NOT NULL,
    PRIMARY KEY (model, revision)
)"""
TABLES = ("about", "segments", "entries")
SIGNATURES = "signatures"
SCHEMA = (
    "CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE segments (name TEXT PRIMARY KEY, size INTEGER NOT NULL)",
    """CREATE TABLE entries (
        model TEXT NOT NULL, revision TEXT NOT NULL, base TEXT,
        measured_at TEXT NOT NULL, measured_by TEXT NOT NULL,
        segment TEXT NOT NULL REFERENCES segments, place INTEGER NOT NULL,
        PRIMARY KEY (model, revision), UNIQUE (segment, place)
    )""",
    SIGNATURE_TABLE,
)


OURS = re.compile(r"[0-9a-f]{32}")  # the name of a segment, without its suffix


def refuse_links(folder: Path) -> None:
    """Check that nothing in a registry's folder leads out of it.

    Raises:
        RegistryError: the catalogue or the folder of segments is a symbolic link.
    """
    try:
        for name in (NAME, f"{NAME}-journal", f"{NAME}-wal", f"{NAME}-shm", "segments"):
            refuse_link(folder / name)
    except HurefError as error:
        raise RegistryError(error.what, file=error.file, advice=error.advice) from error


def refuse_foreign(db: sqlite3.Connection) -> None:
    """Check that a catalogue has our tables and nothing that runs by itself, such as a trigger.

    Raises:
        RegistryError: it has anything else, or a segment whose name could lead out of the folder.
    """
    db.execute("PRAGMA trusted_schema = OFF")
    found = db.execute(
        "SELECT type, name FROM sqlite_master WHERE type != 'index' AND name NOT GLOB 'sqlite_*'"
    )
    tables = {("table", name) for name in TABLES}
    # A registry of an older huref has no table of signatures.
    if {tuple(row) for row in found} | {("table", SIGNATURES)} != tables | {("table", SIGNATURES)}:
        raise RegistryError("its catalogue holds more than a registry's tables", advice=RESTORE)
    for (name,) in db.execute("SELECT name FROM segments"):
        if not isinstance(name, str) or not OURS.fullmatch(name):
            raise RegistryError("its catalogue names a segment that is not ours", advice=RESTORE)


def connect(folder: Path, mode: str) -> sqlite3.Connection:
    """Open the catalogue with mode "rw", or "rwc" to create it.

    Readers use "rw" as well, because the first one to open it after a writer died rolls back the
    unfinished transaction.
    """
    refuse_links(folder)
    uri = f"{(folder / NAME).resolve().as_uri()}?mode={mode}"
    db = sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None)
    try:
        if mode == "rw" and read_format(db):
            with locating(file=folder):
                refuse_foreign(db)
    except BaseException:
        db.close()
        raise
    return db


def read_format(db: sqlite3.Connection) -> int:
    """The version of the schema; 0 if nothing was committed yet."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def transaction(db: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """A transaction, rolled back on an exception; IMMEDIATE waits for other writers."""
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the disk inside the block into RegistryErrors."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        what, advice = {
            sqlite3.SQLITE_BUSY: ("another process has been writing to it", "try again later"),
            sqlite3.SQLITE_LOCKED: ("another process has been writing to it", "try again later"),
            sqlite3.SQLITE_FULL: ("no space left on the disk; nothing was changed", FREE_SPACE),
            sqlite3.SQLITE_READONLY: ("it cannot be written to; nothing was changed", None),
            sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", None),
            sqlite3.SQLITE_IOERR: ("the disk failed; nothing was changed", None),
        }.get(code, ("it is damaged", RESTORE))
        raise RegistryError(f"{what} ({error})", file=folder, advice=advice) from error
    except DiskError as error:
        failed = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO
        what = "the disk failed" if failed else "no space left on the disk"
        advice = None if failed else FREE_SPACE
        what = f"{what}; nothing was changed ({error})"
        raise RegistryError(what, file=folder, advice=advice) from error
    except OSError as error:
        if error.errno in FULL:
            what = "no space left on the disk; nothing was changed"
            raise RegistryError(what, file=folder, advice=FREE_SPACE) from error
        raise RegistryError(
            str(error.strerror or error),
            file=error.filename or folder,
            advice=f"if the file was lost, {RESTORE}",
        ) from error
