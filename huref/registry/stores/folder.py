"""The default registry: a folder, without a server.

    registry.sqlite            the catalogue: each model, its segment and its row there
    segments/*.safetensors     latents, sketches and anchors, at most 4096 models each

A change writes new segments first and then lists them in the catalogue, in one SQLite transaction.
The next writer removes segments that a process left unlisted when it died. So a reader always
finds the last committed state. SQLite's lock makes writers wait for each other.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path

from huref.bounded_json import loads
from huref.errors import RecipeError, RegistryError
from huref.recipe import Recipe, parse_recipe
from huref.registry.entry import Entry
from huref.registry.sketch import VERSION
from huref.registry.store import (
    Chunk,
    Label,
    Store,
    parse_label,
    refuse_unfit,
    require_version,
)
from huref.registry.stores.catalogue import (
    MADE_ALREADY,
    MAKE_ONE,
    NAME,
    NO_REGISTRY,
    OURS,
    RESTORE,
    SCHEMA,
    SIGNATURE_TABLE,
    connect,
    explained,
    read_format,
    transaction,
)
from huref.registry.stores.segment_writer import FULL, SegmentWriter, segment_path
from huref.registry.stores.segments import MissingSegmentError, Segment, sync_folder

FORMAT = 1
CHUNK = 512  # models read at a time: 10 MB
LABELS = "model, revision, base, measured_at, measured_by"
SIGNATURES = "LEFT JOIN signatures USING (model, revision)"


def _label(row: Sequence[object], folder: Path) -> Label:
    """The label in a row of the catalogue. Raises RegistryError for anything but texts."""
    try:
        return parse_label(*row)
    except ValueError as error:
        raise RegistryError(str(error), file=folder, advice=RESTORE) from error


class FolderStore(Store):
    """A registry in a folder."""

    def __init__(self, folder: Path, recipe: Recipe, require: str = ""):
        self.uri = str(folder)
        self.recipe = recipe
        self.require = require
        self._folder = folder
        self._segments = folder / "segments"

    @classmethod
    def create(cls, folder: Path, recipe: Recipe, require: str = "") -> "FolderStore":
        """See `create_store`."""
        database = folder / NAME
        if folder.exists() and not folder.is_dir():
            raise RegistryError("there is a file of that name", file=folder)
        own = {database, folder / "segments", folder / f"{NAME}-journal"}
        if folder.is_dir() and set(folder.iterdir()) - own:
            raise RegistryError(
                "the folder is not empty",
                file=folder,
                advice="give a new registry a folder of its own",
            )
        (folder / "segments").mkdir(parents=True, exist_ok=True)
        with explained(folder), closing(connect(folder, "rwc")) as db, transaction(db):
            if read_format(db):
                raise RegistryError(MADE_ALREADY, file=folder)
            for statement in SCHEMA:
                db.execute(statement)
            about = {"recipe": recipe.to_json(), "sketch": VERSION, "require": require}
            db.executemany("INSERT INTO about VALUES (?, ?)", about.items())
            db.execute(f"PRAGMA user_version = {FORMAT}")
        sync_folder(folder)
        return cls(folder, recipe, require)

    @classmethod
    def open(cls, folder: Path) -> "FolderStore":
        """See `open_store`."""
        if not (folder / NAME).is_file():
            raise RegistryError(NO_REGISTRY, file=folder, advice=MAKE_ONE)
        with explained(folder), closing(connect(folder, "rw")) as db:
            found = read_format(db)
            if found == 0:
                raise RegistryError(NO_REGISTRY, file=folder, advice=MAKE_ONE)
            if found != FORMAT:
                raise RegistryError(
                    f"made by a newer huref (format {found})", file=folder, advice="update huref"
                )
            about = dict(db.execute("SELECT name, value FROM about"))
        try:
            recipe = parse_recipe(loads(about["recipe"]), str(folder))
            version = about["sketch"]
        except (KeyError, ValueError, RecipeError) as error:
            what = "it is damaged (the catalogue has no recipe)"
            raise RegistryError(what, file=folder, advice=RESTORE) from error
        require_version(version, folder)
        return cls(folder, recipe, about.get("require", ""))

    def has(self, model: str, revision: str | None, recipe: str) -> bool:
        """See Store."""
        with self._reading() as db:
            query = "SELECT 1 FROM entries WHERE model = ? AND revision = ?"
            found = db.execute(query, (model, revision or "")).fetchone()
        return found is not None and recipe == self.recipe.digest

    def add(self, entries: Iterable[Entry]) -> int:
        """See Store. Holds a few thousand entries in memory at a time."""
        added, remaining = 0, iter(entries)
        with self._writing() as db:
            writer = SegmentWriter(db, self._segments)
            while batch := list(islice(remaining, FULL)):
                refuse_unfit(batch, self.recipe, self.uri, self.require)
                query = "SELECT 1 FROM entries WHERE model = ? AND revision = ?"
                fresh = {
                    entry.key: entry
                    for entry in reversed(batch)  # of duplicates the first is kept
                    if not db.execute(query, entry.key[:2]).fetchone()
                }
                if fresh:
                    writer.insert(list(reversed(fresh.values())))
                added += len(fresh)
            writer.merge()
        return added

    def remove(self, model: str, revision: str | None = None) -> int:
        """See Store. The model's numbers are removed from the disk, too."""
        with self._writing() as db:
            query = "SELECT segment, place FROM entries WHERE model = ?"
            where: tuple[str, ...] = (model,)
            if revision is not None:
                query, where = f"{query} AND revision = ?", (model, revision)
            gone: dict[str, set[int]] = {}
            for segment, place in db.execute(query, where):
                gone.setdefault(segment, set()).add(place)
            only = "" if revision is None else " AND revision = ?"
            db.execute(f"DELETE FROM signatures WHERE model = ?{only}", where)
            for segment, places in gone.items():
                db.executemany(
                    "DELETE FROM entries WHERE segment = ? AND place = ?",
                    [(segment, place) for place in places],
                )
                SegmentWriter(db, self._segments).rewrite([segment])
        return sum(map(len, gone.values()))

    def chunks(self, *, sketches: bool = True) -> Iterator[Chunk]:
        """See Store. Yields the state committed when the iteration began."""
        for labels, segment in self._snapshot():
            for start in range(0, segment.rows, CHUNK):
                m = segment.read(start, start + CHUNK, sketches=sketches)
                of_rows = labels[start : start + CHUNK]
                yield Chunk(m.latents, m.sketches, m.vocabularies, m.vocabulary, of_rows)

    def __len__(self) -> int:
        with self._reading() as db:
            return int(db.execute("SELECT COUNT(*) FROM entries").fetchone()[0])

    def labels(self) -> Iterator[Label]:
        """See Store. Reads only the catalogue."""
        with self._reading() as db:
            rows = db.execute(_query(db, LABELS)).fetchall()
        for row in rows:
            yield _label(row, self._folder)

    def count_bases(self) -> int:
        """See Store."""
        with self._reading() as db:
            query = "SELECT COUNT(*) FROM entries WHERE base IS NULL"
            return int(db.execute(query).fetchone()[0])

    def _snapshot(self) -> list[tuple[list[Label], Segment]]:
        # A writer may remove a segment after the catalogue was read and before its file is opened;
        # once the file is open, its removal does not matter.
        for last in (False, False, False, True):
            with self._reading() as db, transaction(db, "DEFERRED"):
                labels: dict[str, list[Label]] = {}
                query = f"{_query(db, f'segment, {LABELS}')} ORDER BY segment, place"
                for segment, *row in db.execute(query):
                    label = _label(row, self._folder)
                    if not isinstance(segment, str) or not OURS.fullmatch(segment):
                        raise RegistryError(
                            "its catalogue is damaged", file=self._folder, advice=RESTORE
                        )
                    labels.setdefault(segment, []).append(label)
            try:
                return [
                    (of_rows, Segment(segment_path(self._segments, name), len(of_rows)))
                    for name, of_rows in labels.items()
                ]
            except MissingSegmentError:
                if last:
                    raise
        raise AssertionError("unreachable")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with explained(self._folder), closing(connect(self._folder, "rw")) as db:
            yield db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """The catalogue in a write transaction, rolled back on an exception."""
        with explained(self._folder), closing(connect(self._folder, "rw")) as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                db.execute(SIGNATURE_TABLE)  # a registry of an older huref has none
                SegmentWriter(db, self._segments).sweep()
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                # If another writer has the lock by now, it sweeps instead.
                with suppress(sqlite3.OperationalError), transaction(db):
                    SegmentWriter(db, self._segments).sweep()


def _query(db: sqlite3.Connection, columns: str) -> str:
    """A query for columns of all entries, then signer and signature."""
    tables = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'signatures'"
    if db.execute(tables).fetchone() is None:  # made by an older huref
        return f"SELECT {columns}, '', '' FROM entries"
    return f"SELECT {columns}, signer, signature FROM entries {SIGNATURES}"
