"""Headers and small files of the Hub, kept on disk by commit: a commit never changes."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from huref.loader.ranges import ByteSource

LARGEST = 64 * 1024 * 1024  # bytes of one range worth keeping


class RememberedFile(ByteSource):
    """A source whose ranges are kept as files; the same range is fetched once."""

    def __init__(self, source: ByteSource, folder: Path):
        self.source = source
        self.name = source.name
        self.size = source.size
        self.merge_gap = source.merge_gap
        # A name inside a repository may be long and may hold slashes.
        self._stem = folder / hashlib.sha256(source.name.encode()).hexdigest()[:24]

    def read_into(self, start: int, view: memoryview) -> None:
        """See ByteSource."""
        path = self._stem.with_name(f"{self._stem.name}-{start}-{start + len(view)}")
        try:
            kept = path.read_bytes()
        except OSError:
            kept = b""
        if len(kept) == len(view):
            view[:] = kept
            return
        self.source.read_into(start, view)
        if len(view) <= LARGEST:
            _write(path, view)


def _write(path: Path, data: memoryview) -> None:
    """Keep a range; a full or read-only disk only means that it is fetched again."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
