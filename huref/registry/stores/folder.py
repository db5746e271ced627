"""The default registry: one folder, no server.

    registry.sqlite            who is in it, and in which row of which segment
    segments/*.safetensors     latents and sketches, at most 4096 models each

A change writes new segments first and then names them in one SQLite transaction. Segments that
no transaction names are left-overs of a process that died; the next writer removes them. So a
reader finds the last state that was committed, whatever happened since. SQLite's own lock makes
writers wait for each other.
"""

import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import islice
from json import loads
from pathlib import Path

from huref.errors import RegistryError
from huref.recipe import Recipe, parse_recipe
from huref.registry.entry import Entry
from huref.registry.matrices import Matrices, from_columns, from_entries
from huref.registry.sketch import VERSION
from huref.registry.store import Chunk, Labels, Store, refuse_unfit
from huref.registry.stores.catalogue import (
    NAME,
    SCHEMA,
    connect,
    explained,
    read_format,
    transaction,
)
from huref.registry.stores.segments import MissingSegmentError, Segment, sync_folder, write_segment

FORMAT = 1
FULL = 4096  # models of a segment; one this large is not merged again
AT_ONCE = 512  # models read at a time: 10 MB
FANOUT = 16  # segments of like size that are merged into one
LABELS = "model, revision, base, measured_at, measured_by"


class FolderStore(Store):
    """A registry in a folder."""

    def __init__(self, folder: Path, recipe: Recipe):
        self.uri = str(folder)
        self.recipe = recipe
        self._folder = folder
        self._segments = folder / "segments"

    @classmethod
    def create(cls, folder: Path, recipe: Recipe) -> "FolderStore":
        """See `create_store`."""
        database = folder / NAME
        if folder.exists() and not folder.is_dir():
            raise RegistryError(f"{folder}: there is a file of that name")
        ours = {database, folder / "segments", folder / f"{NAME}-journal"}
        if folder.is_dir() and set(folder.iterdir()) - ours:
            raise RegistryError(f"{folder}: not empty; a new registry needs a folder of its own")
        (folder / "segments").mkdir(parents=True, exist_ok=True)
        with explained(folder), closing(connect(folder, "rwc")) as db, transaction(db):
            if read_format(db):
                raise RegistryError(f"{folder}: there is a registry already")
            for statement in SCHEMA:
                db.execute(statement)
            about = {"recipe": recipe.to_json(), "sketch": VERSION}
            db.executemany("INSERT INTO about VALUES (?, ?)", about.items())
            db.execute(f"PRAGMA user_version = {FORMAT}")
        sync_folder(folder)
        return cls(folder, recipe)

    @classmethod
    def open(cls, folder: Path) -> "FolderStore":
        """See `open_store`."""
        if not (folder / NAME).is_file():
            raise RegistryError(f"{folder}: no registry; make one with 'huref registry init'")
        with explained(folder), closing(connect(folder, "rw")) as db:
            found = read_format(db)
            if found == 0:
                raise RegistryError(f"{folder}: no registry; make one with 'huref registry init'")
            if found != FORMAT:
                raise RegistryError(f"{folder}: made by a newer huref (format {found})")
            about = dict(db.execute("SELECT name, value FROM about"))
        try:
            recipe = parse_recipe(loads(about["recipe"]), str(folder))
            version = about["sketch"]
        except (KeyError, ValueError) as error:
            raise RegistryError(f"{folder}: damaged (what it says of itself is lost)") from error
        if version != VERSION:
            raise RegistryError(f"{folder}: its sketches are '{version}', not '{VERSION}'")
        return cls(folder, recipe)

    def has(self, model: str, revision: str | None, recipe: str) -> bool:
        """See Store."""
        with self._reading() as db:
            query = "SELECT 1 FROM entries WHERE model = ? AND revision = ?"
            found = db.execute(query, (model, revision or "")).fetchone()
        return found is not None and recipe == self.recipe.digest

    def add(self, entries: Iterable[Entry]) -> int:
        """See Store. Entries are taken from the iterable a few thousand at a time."""
        added, left = 0, iter(entries)
        with self._writing() as db:
            while batch := list(islice(left, FULL)):
                refuse_unfit(batch, self.recipe, self.uri)
                query = "SELECT 1 FROM entries WHERE model = ? AND revision = ?"
                fresh = {
                    entry.key: entry
                    for entry in reversed(batch)  # of duplicates the first stays
                    if not db.execute(query, entry.key[:2]).fetchone()
                }
                if fresh:
                    self._insert(db, list(reversed(fresh.values())))
                added += len(fresh)
            self._merge(db)
        return added

    def remove(self, model: str, revision: str | None = None) -> int:
        """See Store. What was measured of the model leaves the disk too."""
        with self._writing() as db:
            query = "SELECT segment, place FROM entries WHERE model = ?"
            where: tuple[str, ...] = (model,)
            if revision is not None:
                query, where = f"{query} AND revision = ?", (model, revision)
            gone: dict[str, set[int]] = {}
            for segment, place in db.execute(query, where):
                gone.setdefault(segment, set()).add(place)
            for segment, places in gone.items():
                db.executemany(
                    "DELETE FROM entries WHERE segment = ? AND place = ?",
                    [(segment, place) for place in places],
                )
                self._rewrite(db, [segment])
        return sum(map(len, gone.values()))

    def chunks(self, *, sketches: bool = True) -> Iterator[Chunk]:
        """See Store. What was committed when it began is what it gives."""
        for labels, segment in self._snapshot():
            for start in range(0, segment.rows, AT_ONCE):
                m = segment.read(start, start + AT_ONCE, sketches=sketches)
                of = labels[start : start + AT_ONCE]
                yield Chunk(m.latents, m.sketches, m.vocabularies, m.vocabulary, of)

    def __len__(self) -> int:
        with self._reading() as db:
            return int(db.execute("SELECT COUNT(*) FROM entries").fetchone()[0])

    def labels(self) -> Iterator[Labels]:
        """See Store. Reads the table alone."""
        with self._reading() as db:
            rows = db.execute(f"SELECT {LABELS} FROM entries").fetchall()
        for model, revision, base, at, by in rows:
            yield Labels(model, revision or None, base, at, by)

    def count_bases(self) -> int:
        """See Store."""
        with self._reading() as db:
            query = "SELECT COUNT(*) FROM entries WHERE base IS NULL"
            return int(db.execute(query).fetchone()[0])

    def _snapshot(self) -> list[tuple[list[Labels], Segment]]:
        # A writer may remove a segment between our look at the table and at the files; once a
        # file is open, its removal does not matter.
        for last in (False, False, False, True):
            with self._reading() as db, transaction(db, "DEFERRED"):
                labels: dict[str, list[Labels]] = {}
                query = f"SELECT {LABELS}, segment FROM entries ORDER BY segment, place"
                for row in db.execute(query):
                    model, revision, base, at, by, segment = row
                    label = Labels(model, revision or None, base, at, by)
                    labels.setdefault(segment, []).append(label)
            try:
                return [(of, Segment(self._path(name), len(of))) for name, of in labels.items()]
            except MissingSegmentError:
                if last:
                    raise
        raise AssertionError("unreachable")

    def _path(self, segment: str) -> Path:
        return self._segments / f"{segment}.safetensors"

    def _insert(self, db: sqlite3.Connection, entries: Sequence[Entry]) -> None:
        name = self._write(db, from_entries(entries))
        rows = [
            (e.model, e.revision or "", e.base, e.measured_at, e.measured_by, name, place)
            for place, e in enumerate(entries)
        ]
        db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def _write(self, db: sqlite3.Connection, matrices: Matrices) -> str:
        name = uuid.uuid4().hex
        write_segment(self._path(name), matrices)
        db.execute("INSERT INTO segments VALUES (?, ?)", (name, len(matrices.latents)))
        return name

    def _merge(self, db: sqlite3.Connection) -> None:
        """Merge small segments of like size, so that there are never many, nor much rewriting."""
        size = 1
        while size < FULL:
            query = "SELECT name FROM segments WHERE size >= ? AND size < ?"
            names = [name for (name,) in db.execute(query, (size, min(size * FANOUT, FULL)))]
            if len(names) >= FANOUT:
                self._rewrite(db, names)
            size *= FANOUT

    def _rewrite(self, db: sqlite3.Connection, segments: Sequence[str]) -> None:
        """Put what the table still knows of some segments into new ones."""
        parts, rows = [], []
        for segment in segments:
            query = "SELECT size FROM segments WHERE name = ?"
            (size,) = db.execute(query, (segment,)).fetchone()
            query = "SELECT place, model, revision FROM entries WHERE segment = ? ORDER BY place"
            kept = db.execute(query, (segment,)).fetchall()
            if kept:
                matrices = Segment(self._path(segment), size).read()
                parts.append(matrices.take([place for place, _, _ in kept]).columns())
                rows += [(model, revision) for _, model, revision in kept]
            # Places are unique within a segment, and rows move to another one below.
            db.execute("DELETE FROM segments WHERE name = ?", (segment,))
        merged = from_columns(parts) if parts else None
        for start in range(0, len(rows), FULL):
            assert merged is not None
            chosen = range(start, min(start + FULL, len(rows)))
            name = self._write(db, merged.take(chosen))
            db.executemany(
                "UPDATE entries SET segment = ?, place = ? WHERE model = ? AND revision = ?",
                [(name, place - start, *rows[place]) for place in chosen],
            )

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with explained(self._folder), closing(connect(self._folder, "rw")) as db:
            yield db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """The table, locked; what is done commits whole or not at all."""
        with explained(self._folder), closing(connect(self._folder, "rw")) as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                self._sweep(db)
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                # Another writer may be at it by now; then it sweeps.
                with suppress(sqlite3.OperationalError), transaction(db):
                    self._sweep(db)

    def _sweep(self, db: sqlite3.Connection) -> None:
        """Remove files that no transaction names. Only the holder of the lock may."""
        named = {f"{name}.safetensors" for (name,) in db.execute("SELECT name FROM segments")}
        for path in self._segments.iterdir():
            if path.is_file() and path.name not in named:
                with suppress(PermissionError):  # Windows: a reader has it open; the next one will
                    path.unlink(missing_ok=True)
