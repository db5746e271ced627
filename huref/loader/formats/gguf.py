"""The GGUF format, versions 2 and 3: typed metadata, a table of tensors, then their bytes.

The header is parsed here because the gguf package reads local files only and takes many seconds
for a large vocabulary. The package decodes the quantised blocks.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from huref.budget import TENSOR, TEXT
from huref.errors import DOWNLOAD_AGAIN, CheckpointError, UnsupportedModelError, locating
from huref.loader.formats.ggml import PLAIN, block_of
from huref.loader.formats.gguf_cursor import Cursor
from huref.loader.formats.safetensors import refuse_overlaps
from huref.loader.ranges import ByteSource
from huref.loader.tensors import StoredTensor

MAGIC = b"GGUF"
OLDER = {b"lmgg": "GGML", b"fmgg": "GGMF", b"tjgg": "GGJT", b"algg": "GGLA"}
CONVERT_AGAIN = "convert the model to GGUF again"
VERSIONS = (2, 3)
MAX_TENSORS = 100_000
# Types that llama.cpp once wrote and then removed, some of them layouts for one kind of processor.
DROPPED_TYPES = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip
MAX_AXES = 4


@dataclass(frozen=True)
class Header:
    """A GGUF file's metadata by key and its tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_header(source: ByteSource) -> Header:
    """Metadata and tensors of one GGUF file.

    A stack of experts is split into one tensor for each expert: `NAME.0`, `NAME.1` and so on.

    Raises:
        CheckpointError: the file is truncated or inconsistent, or its version is unknown.
    """
    with locating(file=source.name):
        return _read_header(source)


def _read_header(source: ByteSource) -> Header:
    cursor = Cursor(source)
    if older := OLDER.get(bytes(cursor.data[:4])):
        raise UnsupportedModelError(
            f"it is a file of the {older} format, which is older than GGUF",
            advice="take a GGUF or safetensors file of the model",
        )
    if source.size < 24 or cursor.data[:4] != MAGIC:
        raise CheckpointError("it is not a GGUF file", advice=DOWNLOAD_AGAIN)
    cursor.position = 4
    version, tensor_count, value_count = cursor.unpack("IQQ")
    if version >> 24 in VERSIONS and not version & 0xFFFFFF:
        raise UnsupportedModelError(
            "it is a big-endian GGUF file",
            advice="convert it with 'gguf-convert-endian FILE little' of the gguf package",
        )
    if version not in VERSIONS:
        raise CheckpointError(
            f"its GGUF version is {version}; huref reads versions 2 and 3",
            advice="take a newer GGUF file of the model, or convert it again",
        )
    if max(tensor_count, value_count) > min(MAX_TENSORS, source.size // 12):
        raise CheckpointError(
            f"its header has {tensor_count} tensors and {value_count} metadata values, more than "
            "fit into the file",
            advice=DOWNLOAD_AGAIN,
        )
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        cursor.budget.spend(4 * TEXT)
        key = cursor.string()
        if key in metadata:
            raise CheckpointError(f"its metadata has '{key[:100]}' twice", advice=CONVERT_AGAIN)
        metadata[key] = cursor.value(cursor.unpack("I"))
    cursor.budget.spend(TENSOR * tensor_count)
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
    split: dict[str, StoredTensor] = {}
    for entry in tensors.values():
        one_by_one = {entry.name: entry}
        if _is_stack(entry):
            cursor.budget.spend(TENSOR * entry.shape[0])
            one_by_one = _split_experts(entry)
        if twice := split.keys() & one_by_one.keys():
            raise CheckpointError(
                f"it holds '{min(twice)[:200]}' twice, alone and in a stack", advice=CONVERT_AGAIN
            )
        split |= one_by_one
    return Header(metadata, split)


def _describe(cursor: Cursor) -> tuple[str, tuple[int, ...], int, int]:
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
    if block is None and kind in DROPPED_TYPES:
        raise CheckpointError(
            f"its type {DROPPED_TYPES[kind]} was dropped from GGUF and cannot be decoded",
            tensor=name[:200],
            advice="take another quantisation of the model, such as its Q4_0 file",
        )
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


def _is_stack(entry: StoredTensor) -> bool:
    """Whether a tensor is a stack of experts, each of which has bytes of its own."""
    is_stack = len(entry.shape) == 3 and entry.name.rpartition(".")[0].endswith("_exps")
    return is_stack and 0 < entry.shape[0] <= min(entry.nbytes, MAX_TENSORS)


def _split_experts(entry: StoredTensor) -> dict[str, StoredTensor]:
    stem, dot, suffix = entry.name.rpartition(".")
    size = entry.nbytes // entry.shape[0]
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
