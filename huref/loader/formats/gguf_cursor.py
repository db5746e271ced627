"""Typed values of a GGUF header, read in order."""

import struct
from typing import Any

from huref.budget import LIST, NUMBER, SLOT, TEXT, Budget
from huref.errors import DOWNLOAD_AGAIN, CheckpointError
from huref.loader.ranges import ByteSource

FIRST_READ = 1024 * 1024
MAX_HEADER = 128 * 1024 * 1024  # bytes; 256,000 tokens with merges take about 20 million
READ_AHEAD = 16 * 1024 * 1024  # bytes at most; below that the next read doubles the last
MAX_DEPTH = 4  # of nested arrays
STRING, ARRAY, BOOL = 8, 9, 7
SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip


class Cursor:
    """Reads a GGUF header from front to back and fetches more of the file as needed.

    All methods raise CheckpointError, without the file's name, where the header is truncated or
    inconsistent.

    Attributes:
        source: the file.
        data: the bytes read so far, from the file's start.
        position: byte of the next value.
        budget: counts what the header costs.
    """

    def __init__(self, source: ByteSource):
        self.source = source
        self.data = source.read(0, min(FIRST_READ, source.size))
        self.position = 0
        self.budget = Budget(min(source.size, MAX_HEADER))

    def require(self, count: int) -> None:
        """Make sure that `count` more bytes are in memory."""
        stop = self.position + count
        if stop <= len(self.data):
            return
        if stop > min(self.source.size, MAX_HEADER):
            raise CheckpointError(
                "its header is longer than the file; it is truncated or not a GGUF file",
                advice=DOWNLOAD_AGAIN,
            )
        ahead = min(max(stop, len(self.data) + min(len(self.data), READ_AHEAD)), self.source.size)
        self.data += self.source.read(len(self.data), ahead)

    def unpack(self, form: str) -> Any:
        """The next little-endian value in a format of `struct`; a tuple for several values."""
        size = struct.calcsize("<" + form)
        self.require(size)
        values = struct.unpack_from("<" + form, self.data, self.position)
        self.position += size
        return values[0] if len(values) == 1 else values

    def string(self) -> str:
        """The next string; bytes that are not UTF-8 become surrogates."""
        length = self.unpack("Q")
        self.require(length)
        text = self.data[self.position : self.position + length]
        self.position += length
        return text.decode("utf-8", "surrogateescape")

    def strings(self, count: int) -> list[str]:
        """`count` strings; a fast loop, because a vocabulary may have 256,000."""
        self.budget.spend(count * (TEXT + SLOT))
        found = []
        for _ in range(count):
            position = self.position
            if position + 8 > len(self.data):
                self.require(8)
            length = int.from_bytes(self.data[position : position + 8], "little")
            stop = position + 8 + length
            if stop > len(self.data):
                self.require(8 + length)
            found.append(self.data[position + 8 : stop].decode("utf-8", "surrogateescape"))
            self.position = stop
        return found

    def value(self, kind: int, depth: int = 0) -> Any:
        """The next metadata value of a GGUF type, inside `depth` arrays."""
        if kind in SCALARS:
            return self.unpack(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY or depth >= MAX_DEPTH:
            raise CheckpointError(
                f"its metadata has a value of the unknown type {kind}", advice=DOWNLOAD_AGAIN
            )
        inner, count = self.unpack("IQ")
        least = struct.calcsize("<" + SCALARS[inner]) if inner in SCALARS else 8
        if count * least > min(self.source.size, MAX_HEADER):
            raise CheckpointError(
                f"an array in its header has {count} entries, more than fit into the file",
                advice=DOWNLOAD_AGAIN,
            )
        self.budget.spend(LIST)
        if inner in SCALARS:
            self.budget.spend(count * (SLOT if least == 1 else NUMBER))
            self.require(count * least)
            values = struct.unpack_from(f"<{count}{SCALARS[inner]}", self.data, self.position)
            self.position += count * least
            return list(values)
        if inner == STRING:
            return self.strings(count)
        self.budget.spend(count * LIST)
        return [self.value(inner, depth + 1) for _ in range(count)]
