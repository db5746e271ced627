"""The safetensors format: a length, a JSON header, then the tensors' bytes.

The header is parsed here because the safetensors package opens local files only, and so that an
invalid header is refused before memory is allocated for it.
"""

from math import prod
from typing import TypeGuard

import torch

from huref.bounded_json import JsonError, loads_object
from huref.budget import TENSOR, Budget
from huref.errors import DOWNLOAD_AGAIN, CheckpointError, locating
from huref.loader.ranges import ByteSource
from huref.loader.tensors import StoredTensor

MAX_HEADER = 100_000_000  # bytes; the limit of the reference implementation
MAX_AXES = 64  # of a tensor; torch has no more
FIRST_READ = 64 * 1024  # bytes; most headers fit, a longer one takes a second request
SAVE_AGAIN = "save the model again with the safetensors package"

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E8M0": torch.uint8,  # an exponent without mantissa, which quantisation schemes decode
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
}

# Types of the format that torch or huref cannot compute with, and their bits. A file may have them
# in tensors that are not needed, so only reading such a tensor is refused.
OTHER_BITS = {
    "C64": 64, "C128": 128, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip


def _parse_json(text: bytes) -> dict[str, object]:
    try:
        return loads_object(text, unique=True)  # readers differ in which of two they take
    except JsonError as error:
        raise CheckpointError(
            f"its safetensors header is not valid JSON ({error})", advice=DOWNLOAD_AGAIN
        ) from error


def read_header(source: ByteSource, head: bytearray | None = None) -> dict[str, StoredTensor]:
    """Index a safetensors file; only its header is read.

    Args:
        source: the file.
        head: its first bytes, where they were read already.

    Raises:
        CheckpointError: the file is truncated or inconsistent.
    """
    with locating(file=source.name):
        return _read_header(source, head or bytearray())


def _read_header(source: ByteSource, head: bytearray) -> dict[str, StoredTensor]:
    if source.size < 8:
        raise CheckpointError(
            f"it has {source.size} bytes, too few for a safetensors file", advice=DOWNLOAD_AGAIN
        )
    if len(head) < min(source.size, FIRST_READ):
        head = source.read(0, min(source.size, FIRST_READ))
    length = int.from_bytes(head[:8], "little")
    if length > min(MAX_HEADER, source.size - 8):
        raise CheckpointError(
            f"its header would take {length} bytes, but the file has {source.size}; it is "
            "truncated or not a safetensors file",
            advice=DOWNLOAD_AGAIN,
        )
    if 8 + length > len(head):
        head += source.read(len(head), 8 + length)
    header = _parse_json(bytes(head[8 : 8 + length]))
    header.pop("__metadata__", None)
    budget = Budget(source.size)
    entries = {}
    for name, value in header.items():
        budget.spend(TENSOR)
        with locating(tensor=name[:200]):
            entries[name] = _parse_entry(name, value, source, base=8 + length)
    refuse_overlaps(entries)
    _refuse_gaps(entries, 8 + length, source.size)
    return entries


def _parse_entry(name: str, value: object, source: ByteSource, base: int) -> StoredTensor:
    if not isinstance(value, dict):
        raise CheckpointError("the header does not describe it", advice=SAVE_AGAIN)
    dtype_name, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise CheckpointError("its shape or data_offsets are not valid", advice=SAVE_AGAIN)
    if not isinstance(dtype_name, str):
        raise CheckpointError("its dtype is not valid", advice=SAVE_AGAIN)
    dtype = DTYPES.get(dtype_name)
    bits = OTHER_BITS.get(dtype_name) if dtype is None else 8 * dtype.itemsize
    count = prod(shape)
    start, stop = base + offsets[0], base + offsets[1]
    if start > stop or (bits is not None and stop - start != -(-count * bits // 8)):
        raise CheckpointError(
            f"its shape {shape} of {dtype_name} needs {-(-count * (bits or 8) // 8)} bytes, but "
            f"the header gives it {stop - start}",
            advice=SAVE_AGAIN,
        )
    if stop > source.size:
        raise CheckpointError(
            f"it ends at byte {stop}, but the file has {source.size} bytes and is truncated",
            advice=DOWNLOAD_AGAIN,
        )
    unreadable = "" if dtype is not None else dtype_name[:40]
    return StoredTensor(
        name, source.name, dtype or torch.uint8, tuple(shape), start, stop, unreadable=unreadable
    )


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) <= MAX_AXES
        and all(type(n) is int and 0 <= n < 2**62 for n in value)
    )


def _refuse_gaps(entries: dict[str, StoredTensor], start: int, size: int) -> None:
    """Raise CheckpointError for bytes that belong to no tensor, as the reference reader does."""
    end = start
    for entry in sorted(entries.values(), key=lambda e: (e.start, e.stop)):
        if entry.start != end:
            raise CheckpointError(
                f"{entry.start - end} bytes before it belong to no tensor",
                tensor=entry.name[:200],
                advice=SAVE_AGAIN,
            )
        end = entry.stop
    if end != size:
        raise CheckpointError(
            f"{size - end} bytes after the last tensor belong to none", advice=DOWNLOAD_AGAIN
        )


def refuse_overlaps(entries: dict[str, StoredTensor]) -> None:
    """Raise CheckpointError when two tensors of a file share bytes."""
    last_stop, last_name = 0, ""
    for entry in sorted(entries.values(), key=lambda e: (e.start, e.stop)):
        if entry.start < last_stop:
            raise CheckpointError(
                f"it overlaps tensor '{last_name[:200]}'", tensor=entry.name[:200]
            )
        last_stop, last_name = entry.stop, entry.name
