"""The GGUF format, versions 2 and 3: typed metadata, a table of tensors, then their bytes.

The header is parsed here because the gguf package reads local files only and takes many seconds
for a large vocabulary. The package decodes the quantised blocks.
"""

import struct
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from huref.errors import DOWNLOAD_AGAIN, CheckpointError, locating
from huref.loader.formats.ggml import PLAIN, block_of
from huref.loader.formats.safetensors import refuse_overlaps
from huref.loader.ranges import ByteSource
from huref.loader.tensors import StoredTensor

MAGIC = b"GGUF"
CONVERT_AGAIN = "convert the model to GGUF again"
VERSIONS = (2, 3)
FIRST_READ = 1024 * 1024
MAX_HEADER = 512 * 1024 * 1024  # bytes; 256,000 tokens with merges take about 20 million
MAX_DEPTH = 4  # of nested arrays
MAX_TENSORS = 100_000
MAX_AXES = 4
STRING, ARRAY, BOOL = 8, 9, 7
SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """A GGUF file's metadata by key and its tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


class _Cursor:
    """Reads a header from front to back and fetches more of the file as needed."""

    def __init__(self, source: ByteSource):
        self.source = source
        self.data = source.read(0, min(FIRST_READ, source.size))
        self.position = 0

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
        """`count` strings; a fast loop, because a vocabulary may have 256,000."""
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
                f"its metadata has a value of the unknown type {kind}", advice=DOWNLOAD_AGAIN
            )
        inner, count = self.unpack("IQ")
        least = struct.calcsize("<" + SCALARS[inner]) if inner in SCALARS else 8
        if count * least > min(self.source.size, MAX_HEADER):
            raise CheckpointError(
                f"an array in its header has {count} entries, more than fit into the file",
                advice=DOWNLOAD_AGAIN,
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

    A stack of experts is split into one tensor for each expert: `NAME.0`, `NAME.1` and so on.

    Raises:
        CheckpointError: the file is truncated or inconsistent, or its version is unknown.
    """
    with locating(file=source.name):
        return _read_header(source)


def _read_header(source: ByteSource) -> Header:
    cursor = _Cursor(source)
    if source.size < 24 or cursor.data[:4] != MAGIC:
        raise CheckpointError("it is not a GGUF file", advice=DOWNLOAD_AGAIN)
    cursor.position = 4
    version, tensor_count, value_count = cursor.unpack("IQQ")
    if version not in VERSIONS:
        raise CheckpointError(
            f"its GGUF version is {version}; huref reads versions 2 and 3 (little-endian)"
        )
    if max(tensor_count, value_count) > min(MAX_TENSORS, source.size // 12):
        raise CheckpointError(
            f"its header has {tensor_count} tensors and {value_count} metadata values, more than "
            "fit into the file",
            advice=DOWNLOAD_AGAIN,
        )
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.unpack("I"))
    described = [_describe(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 2**20:
        raise CheckpointError(
            f"its general.alignment is {alignment!r}, which is not valid", advice=CONVERT_AGAIN
        )
    base = -(-cursor.position // alignment) * alignment
    tensors: dict[str, StoredTensor] = {}
    for name, shape, kind, offset in described:
        entry = _locate(source, name, shape, kind, base + offset)
        if name in tensors:
            raise CheckpointError(
                "it is in the file twice", tensor=name[:200], advice=CONVERT_AGAIN
            )
        tensors[name] = entry
    refuse_overlaps(tensors)
    split = {n: t for entry in tensors.values() for n, t in _split_experts(entry).items()}
    return Header(metadata, split)


def _describe(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    axes = cursor.unpack("I")
    if not 0 <= axes <= MAX_AXES:
        raise CheckpointError(
            f"it has {axes} axes, and GGUF allows {MAX_AXES}",
            tensor=name[:200],
            advice=DOWNLOAD_AGAIN,
        )
    reversed_shape = [cursor.unpack("Q") for _ in range(axes)]  # GGUF lists the last axis first
    kind, offset = cursor.unpack("IQ")
    return name, tuple(reversed(reversed_shape)), kind, offset


def _locate(
    source: ByteSource, name: str, shape: tuple[int, ...], kind: int, start: int
) -> StoredTensor:
    block = block_of(kind)
    if block is None:
        raise CheckpointError(
            f"it has the unknown GGUF type {kind}",
            tensor=name[:200],
            advice="update the gguf package",
        )
    elements, size = block
    count = prod(shape)
    if shape and shape[-1] % elements:
        raise CheckpointError(
            f"its rows of {shape[-1]} elements do not divide into blocks of {elements}",
            tensor=name[:200],
            advice=CONVERT_AGAIN,
        )
    stop = start + count // elements * size
    if stop > source.size:
        raise CheckpointError(
            f"it ends at byte {stop}, but the file has {source.size} bytes and is truncated",
            tensor=name[:200],
            advice=DOWNLOAD_AGAIN,
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
