"""The segments of a folder registry inside one transaction: written, merged, rewritten, removed.

Segments are immutable. A change writes new files first and then lists them in the catalogue; files
that the catalogue does not list are left by a process that died, and `sweep` removes them.
"""

import re
import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from huref.files import refuse_link
from huref.registry.entry import Entry
from huref.registry.matrices import Matrices, from_columns, from_entries
from huref.registry.stores.segments import Segment, write_segment

FULL = 4096  # models per segment; a segment of this size is not merged again
# A segment, or the temporary file of one: what `sweep` may remove, and nothing else.
REMOVABLE = re.compile(r"[0-9a-f]{32}\.safetensors|\.[0-9a-f]{32}\.safetensors\.\w{8}")
FANOUT = 16  # segments of similar size that are merged into one


def segment_path(folder: Path, name: str) -> Path:
    """The file of a segment in the folder of segments."""
    return folder / f"{name}.safetensors"


class SegmentWriter:
    """Changes segments and their rows in the catalogue.

    Args:
        db: the catalogue, in a transaction.
        folder: of the segments.
    """

    def __init__(self, db: sqlite3.Connection, folder: Path):
        self._db = db
        self._folder = folder

    def insert(self, entries: Sequence[Entry]) -> None:
        """Write entries, at most FULL, as a new segment."""
        name = self._write(from_entries(entries))
        rows = [
            (e.model, e.revision or "", e.base, e.measured_at, e.measured_by, name, place)
            for place, e in enumerate(entries)
        ]
        self._db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        signed = [(e.model, e.revision or "", e.signer, e.signature) for e in entries if e.signer]
        self._db.executemany("INSERT OR REPLACE INTO signatures VALUES (?, ?, ?, ?)", signed)

    def merge(self) -> None:
        """Merge small segments of similar size.

        So there are never many segments, and each model is rewritten only two or three times.
        """
        size = 1
        while size < FULL:
            query = "SELECT name FROM segments WHERE size >= ? AND size < ?"
            names = [name for (name,) in self._db.execute(query, (size, min(size * FANOUT, FULL)))]
            if len(names) >= FANOUT:
                self.rewrite(names)
            size *= FANOUT

    def rewrite(self, segments: Sequence[str]) -> None:
        """Replace segments by new ones with those of their models that are still listed."""
        parts, rows = [], []
        for segment in segments:
            query = "SELECT size FROM segments WHERE name = ?"
            (size,) = self._db.execute(query, (segment,)).fetchone()
            query = "SELECT place, model, revision FROM entries WHERE segment = ? ORDER BY place"
            kept = self._db.execute(query, (segment,)).fetchall()
            if kept:
                matrices = Segment(segment_path(self._folder, segment), size).read()
                parts.append(matrices.take([place for place, _, _ in kept]).columns())
                rows += [(model, revision) for _, model, revision in kept]
            # Places are unique within a segment, and rows move to another segment below.
            self._db.execute("DELETE FROM segments WHERE name = ?", (segment,))
        merged = from_columns(parts) if parts else None
        for start in range(0, len(rows), FULL):
            assert merged is not None
            chosen = range(start, min(start + FULL, len(rows)))
            name = self._write(merged.take(chosen))
            self._db.executemany(
                "UPDATE entries SET segment = ?, place = ? WHERE model = ? AND revision = ?",
                [(name, place - start, *rows[place]) for place in chosen],
            )

    def sweep(self) -> None:
        """Remove our own files that the catalogue does not list. Needs the write lock.

        Files of other names are left alone, and so is everything if the folder is a link.
        """
        refuse_link(self._folder)
        query = "SELECT name FROM segments"
        listed = {segment_path(self._folder, name).name for (name,) in self._db.execute(query)}
        for path in self._folder.iterdir():
            is_ours = REMOVABLE.fullmatch(path.name) and path.is_file() and not path.is_symlink()
            if is_ours and path.name not in listed:
                # On Windows a reader may have it open; the next writer will remove it.
                with suppress(PermissionError):
                    path.unlink(missing_ok=True)

    def _write(self, matrices: Matrices) -> str:
        name = uuid.uuid4().hex
        write_segment(segment_path(self._folder, name), matrices)
        self._db.execute("INSERT INTO segments VALUES (?, ?)", (name, len(matrices.latents)))
        return name
