"""The GGUF format, versions 2 and 3: typed metadata, a table of tensors, then their bytes.

The gguf package reads local files only and takes many seconds for a large vocabulary, so the
header is parsed here; the package still decodes the quantised blocks.
"""

import struct
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from huref.errors import CheckpointError
from huref.loader.formats.ggml import PLAIN, block_of
from huref.loader.formats.safetensors import refuse_overlaps
from huref.loader.ranges import ByteSource
from huref.loader.tensors import StoredTensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)
FIRST_READ = 1024 * 1024
MAX_HEADER = 512 * 1024 * 1024  # bytes; 256,000 tokens with merges take about 20 million
MAX_DEPTH = 4  # arrays of arrays
MAX_TENSORS = 100_000
MAX_AXES = 4
STRING, ARRAY, BOOL = 8, 9, 7
SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself: metadata by key, tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


class _Cursor:
    """Reads forward through a header, fetching more of the file as it goes."""

    def __init__(self, source: ByteSource):
        self.source = source
        self.data = source.read(0, min(FIRST_READ, source.size))
        self.position = 0

    def require(self, count: int) -> None:
        """Have `count` more bytes at hand."""
        stop = self.position + count
        if stop <= len(self.data):
            return
        if stop > min(self.source.size, MAX_HEADER):
            raise CheckpointError(
                f"{self.source.name}: its header claims more than the file can hold; it is "
                "truncated or not a GGUF file; download it again"
            )
        ahead = min(max(stop, 2 * len(self.data)), self.source.size)
        self.data += self.source.read(len(self.data), ahead)

    def unpack(self, form: str) -> Any:
        size = struct.calcsize("<" + form)
        self.require(size)
        values = struct.unpack_from("<" + form, self.data, self.position)
        self.position += size
        return values[0] if len(values) == 1 else values

    def string(self) -> str:
        length = self.unpack("Q")
        self.require(length)
        text = self.data[self.position : self.position + length]
        self.position += length
        return text.decode("utf-8", "surrogateescape")

    def strings(self, count: int) -> list[str]:
        """Many strings; the loop that a large vocabulary spends its time in."""
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
        if kind in SCALARS:
            return self.unpack(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY or depth >= MAX_DEPTH:
            raise CheckpointError(
                f"{self.source.name}: metadata of unknown type {kind}; download the file again"
            )
        inner, count = self.unpack("IQ")
        least = struct.calcsize("<" + SCALARS[inner]) if inner in SCALARS else 8
        if count * least > min(self.source.size, MAX_HEADER):
            raise CheckpointError(
                f"{self.source.name}: an array in the header claims {count} entries, more than "
                "the file can hold; download it again"
            )
        if inner in SCALARS:
            self.require(count * least)
            values = struct.unpack_from(f"<{count}{SCALARS[inner]}", self.data, self.position)
            self.position += count * least
            return list(values)
        if inner == STRING:
            return self.strings(count)
        return [self.value(inner, depth + 1) for _ in range(count)]


def read_header(source: ByteSource) -> Header:
    """Metadata and tensors of one GGUF file.

    A stack of experts is given as one tensor for each, `NAME.0`, `NAME.1` and so on.

    Raises:
        CheckpointError: truncated, of an unknown version, or contradicting itself.
    """
    cursor = _Cursor(source)
    if source.size < 24 or cursor.data[:4] != MAGIC:
        raise CheckpointError(f"{source.name}: not a GGUF file; download it again")
    cursor.position = 4
    version, tensor_count, value_count = cursor.unpack("IQQ")
    if version not in VERSIONS:
        raise CheckpointError(
            f"{source.name}: GGUF version {version}; huref reads versions 2 and 3 (little-endian)"
        )
    if max(tensor_count, value_count) > min(MAX_TENSORS, source.size // 12):
        raise CheckpointError(
            f"{source.name}: the header claims {tensor_count} tensors and {value_count} values, "
            "more than the file can hold; download it again"
        )
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.unpack("I"))
    described = [_describe(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 2**20:
        raise CheckpointError(
            f"{source.name}: general.alignment is {alignment!r}; download the file again"
        )
    base = -(-cursor.position // alignment) * alignment
    tensors: dict[str, StoredTensor] = {}
    for name, shape, kind, offset in described:
        entry = _locate(source, name, shape, kind, base + offset)
        if name in tensors:
            raise CheckpointError(
                f"{source.name}: there are two tensors '{name[:200]}'; download the file again"
            )
        tensors[name] = entry
    refuse_overlaps(source.name, tensors)
    split = {n: t for entry in tensors.values() for n, t in _split_experts(entry).items()}
    return Header(metadata, split)


def _describe(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    axes = cursor.unpack("I")
    if not 0 <= axes <= MAX_AXES:
        raise CheckpointError(
            f"{cursor.source.name}: tensor '{name[:200]}' has {axes} axes; download the file again"
        )
    reversed_shape = [cursor.unpack("Q") for _ in range(axes)]  # GGUF counts axes from the last
    kind, offset = cursor.unpack("IQ")
    return name, tuple(reversed(reversed_shape)), kind, offset


def _locate(
    source: ByteSource, name: str, shape: tuple[int, ...], kind: int, start: int
) -> StoredTensor:
    where = f"{source.name}: tensor '{name[:200]}'"
    block = block_of(kind)
    if block is None:
        raise CheckpointError(f"{where} has the unknown type {kind}; update the gguf package")
    elements, size = block
    count = prod(shape)
    if shape and shape[-1] % elements:
        raise CheckpointError(
            f"{where}: rows of {shape[-1]} do not divide into blocks; download the file again"
        )
    stop = start + count // elements * size
    if stop > source.size:
        raise CheckpointError(
            f"{where} ends at byte {stop}, but the file has {source.size}; it is truncated; "
            "download it again"
        )
    dtype = PLAIN.get(kind, torch.float32)
    ggml_type = None if kind in PLAIN else kind
    return StoredTensor(name, source.name, dtype, shape, start, stop, None, ggml_type)


def _split_experts(entry: StoredTensor) -> dict[str, StoredTensor]:
    stem, dot, suffix = entry.name.rpartition(".")
    if len(entry.shape) != 3 or not stem.endswith("_exps") or entry.shape[0] > MAX_TENSORS:
        return {entry.name: entry}
    size = entry.nbytes // entry.shape[0] if entry.shape[0] else 0
    return {
        name: StoredTensor(
            name,
            entry.file,
            entry.dtype,
            entry.shape[1:],
            entry.start + expert * size,
            entry.start + (expert + 1) * size,
            None,
            entry.ggml_type,
        )
        for expert in range(entry.shape[0])
        for name in [f"{stem}.{expert}{dot}{suffix}"]
    }
