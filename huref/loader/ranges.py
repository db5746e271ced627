"""Byte sources, which all file formats read from: local files and files of a Hub repository.

A source reads byte ranges and nothing else. It counts the bytes that it reads.
"""

import os
import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from huref.errors import DOWNLOAD_AGAIN, CheckpointError
from huref.progress import Bar

LIMIT = "HUREF_MAX_MEMORY"  # environment variable
UNKNOWN_RAM = 16_000_000_000
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?([KMGT]?)i?B?", re.IGNORECASE)
PARALLEL_READS = 8
LONGEST_READ = 64 * 1024 * 1024  # bytes in one request; longer ranges are read in parallel


@dataclass
class Meter:
    """Counts the bytes read and the requests made, and shows the bytes in a progress bar."""

    bytes_read: int = 0
    requests: int = 0
    bar: Bar | None = field(default=None, repr=False)

    def count(self, length: int, requests: int = 0) -> None:
        """Add to both counts."""
        self.bytes_read += length
        self.requests += requests
        if self.bar is not None:
            self.bar.update(length)


class ByteSource(ABC):
    """A named file of known size that can be read in ranges.

    Attributes:
        name: the file's name in the repository, for messages.
        size: in bytes.
        merge_gap: ranges at most this many bytes apart are read as one.
    """

    name: str
    size: int
    merge_gap: int

    @abstractmethod
    def read_into(self, start: int, view: memoryview) -> None:
        """Fill `view` with the bytes from `start` on. The range must lie inside the file."""

    def read(self, start: int, stop: int) -> bytearray:
        """The bytes [start, stop). Raises CheckpointError when the file is shorter."""
        self.require_inside(start, stop)
        data = bytearray(stop - start)
        if data:
            self.read_into(start, memoryview(data))
        return data

    def require_inside(self, start: int, stop: int) -> None:
        """Raise CheckpointError for a range that does not lie inside the file."""
        if not 0 <= start <= stop <= self.size:
            raise CheckpointError(
                f"bytes {start} to {stop} are needed, but it has only {self.size}; it is "
                "truncated or its index is wrong",
                file=self.name,
                advice=DOWNLOAD_AGAIN,
            )


class LocalFile(ByteSource):
    """A file on disk."""

    merge_gap = 64 * 1024

    def __init__(self, path: Path, name: str, meter: Meter):
        self.path = path
        self.name = name
        self.size = path.stat().st_size
        self._meter = meter

    def read_into(self, start: int, view: memoryview) -> None:
        """See ByteSource."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(start)
            filled = 0
            # One readinto returns at most 2 GiB on Linux.
            while filled < len(view) and (count := file.readinto(view[filled:])):
                filled += count
        if filled < len(view):
            raise CheckpointError("it was truncated while it was being read", file=self.name)
        self._meter.count(len(view), requests=1)


def coalesce(ranges: Iterable[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Merge ranges (start, stop) that overlap or are at most `gap` bytes apart; sorted."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start - merged[-1][1] <= gap:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


class Spans:
    """Merged ranges of a file with their bytes, sorted by start."""

    def __init__(self, merged: list[tuple[int, int]], parts: list[memoryview]):
        self._starts = [start for start, _ in merged]
        self._parts = parts

    def bytes_at(self, start: int, stop: int) -> memoryview:
        """The bytes [start, stop) of the file, which must lie inside one of the ranges."""
        if start == stop:
            return memoryview(bytearray())
        part = bisect_right(self._starts, start) - 1
        first = self._starts[part]
        return self._parts[part][start - first : stop - first]


def read_spans(source: ByteSource, ranges: Iterable[tuple[int, int]]) -> Spans:
    """Read ranges of one file: adjacent ones merged, long ones split and read in parallel."""
    merged = coalesce((r for r in ranges if r[0] < r[1]), source.merge_gap)
    for start, stop in merged:
        source.require_inside(start, stop)  # before anything is allocated
    refuse_too_much(sum(stop - start for start, stop in merged), source.name)
    # Not a bytearray, which is filled with zeros first: a third of a second for each gigabyte.
    parts = [np.empty(stop - start, dtype=np.uint8).data for start, stop in merged]
    pieces = [
        (start + offset, part[offset : offset + LONGEST_READ])
        for (start, _), part in zip(merged, parts, strict=True)
        for offset in range(0, len(part), LONGEST_READ)
    ]
    if len(pieces) == 1:
        source.read_into(*pieces[0])
    elif pieces:
        with ThreadPoolExecutor(PARALLEL_READS) as pool:
            list(pool.map(lambda piece: source.read_into(*piece), pieces))
    return Spans(merged, parts)


def refuse_too_much(needed: int, file: str) -> None:
    """Check that tensors to be read at once fit into the memory that huref may use for them.

    Raises:
        CheckpointError: they are larger; the advice says how to allow more.
    """
    allowed = memory_limit()
    if needed > allowed:
        raise CheckpointError(
            f"its tensors would take {needed / 1e9:,.1f} GB of memory at once, more than the "
            f"{allowed / 1e9:,.1f} GB that huref uses",
            file=file,
            advice=f"if the file is what you expect, allow more with {LIMIT}=200G",
        )


def memory_limit() -> int:
    """Bytes of tensors that are read at once: HUREF_MAX_MEMORY, or three quarters of the RAM.

    Raises:
        CheckpointError: HUREF_MAX_MEMORY is not a size.
    """
    stated = os.environ.get(LIMIT)
    if not stated:
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
        except (AttributeError, ValueError, OSError):  # not on Windows
            return UNKNOWN_RAM
    match = _SIZE.fullmatch(stated.strip())
    if match is None:
        raise CheckpointError(f"{LIMIT} is '{stated[:40]}', not a size", advice="write 64G or 500M")
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " "))


def is_plain_name(name: str) -> bool:
    """Whether a file name from a checkpoint stays inside the checkpoint's folder."""
    parts = name.replace("\\", "/").split("/")
    return ".." not in parts and "" not in parts  # an absolute path has an empty first part
