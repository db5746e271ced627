"""Seekable bytes under every format: a local file, or a file of a Hub repository.

A source reads byte ranges and nothing else. What passes through is counted once, here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tqdm.auto import tqdm

from huref.errors import CheckpointError


@dataclass
class Meter:
    """Counts what was read, and shows it: bytes, and reads from a disk or the network."""

    bytes_read: int = 0
    requests: int = 0
    bar: "tqdm[Any] | None" = field(default=None, repr=False)

    def count(self, length: int, requests: int = 0) -> None:
        """Add bytes that arrived, and requests that were made for them."""
        self.bytes_read += length
        self.requests += requests
        if self.bar is not None:
            self.bar.update(length)


class ByteSource(Protocol):
    """A named run of bytes of known size that can be read in ranges."""

    name: str
    size: int
    merge_gap: int  # ranges closer than this are cheaper to read as one

    def read(self, start: int, stop: int) -> bytearray:
        """The bytes [start, stop). Raises CheckpointError when the file is shorter."""
        ...


def require_inside(source: ByteSource, start: int, stop: int) -> None:
    """Refuse a range that does not lie inside the file."""
    if not 0 <= start <= stop <= source.size:
        raise CheckpointError(
            f"{source.name}: bytes {start} to {stop} were asked for, but the file has "
            f"{source.size}; it is truncated or its index is wrong; download it again"
        )


class LocalFile:
    """A file on disk."""

    merge_gap = 64 * 1024

    def __init__(self, path: Path, name: str, meter: Meter):
        self.path = path
        self.name = name
        self.size = path.stat().st_size
        self._meter = meter

    def read(self, start: int, stop: int) -> bytearray:
        """See ByteSource."""
        require_inside(self, start, stop)
        data = bytearray(stop - start)
        with self.path.open("rb", buffering=0) as file:
            file.seek(start)
            view, filled = memoryview(data), 0
            # One readinto returns at most 2 GiB on Linux.
            while filled < len(data) and (count := file.readinto(view[filled:])):
                filled += count
        if filled < len(data):
            raise CheckpointError(f"{self.name}: the file ended early while it was being read")
        self._meter.count(len(data), requests=1)
        return data


def coalesce(ranges: Iterable[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Merge ranges (start, stop) that overlap or lie at most `gap` bytes apart, sorted."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start - merged[-1][1] <= gap:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def is_plain_name(name: str) -> bool:
    """Whether a file name that a checkpoint gives stays inside the checkpoint's folder."""
    parts = name.replace("\\", "/").split("/")
    return ".." not in parts and "" not in parts  # an absolute path has an empty first part
