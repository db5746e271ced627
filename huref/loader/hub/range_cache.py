"""An on-disk cache of byte ranges of Hub files, by commit; a commit's files never change."""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path

from huref.bounded_json import JsonError, loads_object
from huref.loader.hub.file import HubFile
from huref.loader.ranges import ByteSource

LARGEST_TAGS = 64 * 1024  # bytes
LARGEST = 64 * 1024 * 1024  # bytes; longer ranges are not cached


class CachedRanges(ByteSource):
    """A source that stores each range it reads as a file, and reads it from there next time.

    The tags by which servers named the file are stored as well: ranges of another state of the
    file are never joined with those that are read now.
    """

    def __init__(self, source: HubFile, folder: Path):
        self.source = source
        self.name = source.name
        self.size = source.size
        self.merge_gap = source.merge_gap
        # Names inside a repository may be long and contain slashes.
        self._stem = folder / hashlib.sha256(source.name.encode()).hexdigest()[:24]
        source.on_change = self._forget
        self._tags = self._stem.with_name(f"{self._stem.name}-tags")

    def read_into(self, start: int, view: memoryview) -> None:
        """See ByteSource."""
        path = self._stem.with_name(f"{self._stem.name}-{start}-{start + len(view)}")
        try:
            cached = path.read_bytes() if path.stat().st_size == len(view) else b""
            self.source.expect(_read_tags(self._tags))
        except OSError:
            cached = b""
        if cached and len(cached) == len(view):
            view[:] = cached
            return
        self.source.read_into(start, view)
        if len(view) <= LARGEST:
            _write(self._tags, memoryview(json.dumps(self.source.identity).encode()))
            _write(path, view)

    def _forget(self) -> None:
        """Remove all cached ranges of the file, and their tags."""
        ours = re.compile(rf"{self._stem.name}-(tags|\d+-\d+)")
        for path in self._stem.parent.glob(f"{self._stem.name}-*"):
            if ours.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


def _read_tags(path: Path) -> dict[str, str]:
    """The tags in a file; OSError where there is none, or what it holds are no tags."""
    try:
        if path.stat().st_size > LARGEST_TAGS:
            raise OSError("too large")
        tags = loads_object(path.read_bytes())
    except JsonError as error:
        raise OSError(str(error)) from error
    return {str(server): str(tag) for server, tag in tags.items()}


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
