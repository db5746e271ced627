"""An on-disk cache of byte ranges of Hub files, by commit; a commit's files never change."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from huref.loader.ranges import ByteSource

LARGEST = 64 * 1024 * 1024  # bytes; longer ranges are not cached


class CachedRanges(ByteSource):
    """A source that stores each range it reads as a file, and reads it from there next time."""

    def __init__(self, source: ByteSource, folder: Path):
        self.source = source
        self.name = source.name
        self.size = source.size
        self.merge_gap = source.merge_gap
        # Names inside a repository may be long and contain slashes.
        self._stem = folder / hashlib.sha256(source.name.encode()).hexdigest()[:24]

    def read_into(self, start: int, view: memoryview) -> None:
        """See ByteSource."""
        path = self._stem.with_name(f"{self._stem.name}-{start}-{start + len(view)}")
        try:
            cached = path.read_bytes()
        except OSError:
            cached = b""
        if len(cached) == len(view):
            view[:] = cached
            return
        self.source.read_into(start, view)
        if len(view) <= LARGEST:
            _write(path, view)


def _write(path: Path, data: memoryview) -> None:
    """Store a range. Errors of a full or read-only disk are ignored: it is fetched again then."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
