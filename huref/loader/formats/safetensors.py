"""The safetensors format: a length, a JSON header, then the tensors' bytes.

Read by hand because the safetensors package opens only local files, and so that a header that
lies is refused before anything is allocated for it.
"""

import json
from typing import TypeGuard

import torch

from huref.errors import CheckpointError
from huref.loader.ranges import ByteSource
from huref.loader.tensors import StoredTensor

MAX_HEADER = 100_000_000  # bytes; the limit of the reference implementation
FIRST_READ = 64 * 1024  # most headers fit; a larger one costs one more request

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
    "F8_E8M0": torch.uint8,  # a bare exponent, which its schemes take as an integer
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
}


def _parse_json(text: bytes, name: str) -> dict[str, object]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{name}: the safetensors header is not valid JSON; download the file again"
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(
            f"{name}: the safetensors header is not a JSON object; download the file again"
        )
    return header


def read_header(source: ByteSource) -> dict[str, StoredTensor]:
    """Index a safetensors file by reading its header only.

    Raises:
        CheckpointError: the file is truncated, or the header contradicts the file or itself.
    """
    if source.size < 8:
        raise CheckpointError(
            f"{source.name}: {source.size} bytes are not a safetensors file; download it again"
        )
    head = source.read(0, min(source.size, FIRST_READ))
    length = int.from_bytes(head[:8], "little")
    if length > min(MAX_HEADER, source.size - 8):
        raise CheckpointError(
            f"{source.name}: the header says it has {length} bytes, the file has {source.size}; "
            "it is truncated or not a safetensors file; download it again"
        )
    if 8 + length > len(head):
        head += source.read(len(head), 8 + length)
    header = _parse_json(bytes(head[8 : 8 + length]), source.name)
    header.pop("__metadata__", None)
    entries = {
        name: _parse_entry(name, value, source, base=8 + length) for name, value in header.items()
    }
    refuse_overlaps(source.name, entries)
    return entries


def _parse_entry(name: str, value: object, source: ByteSource, base: int) -> StoredTensor:
    where = f"{source.name}: tensor '{name[:200]}'"
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} has no description in the header; download it again")
    dtype_name, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if dtype_name not in DTYPES:
        raise CheckpointError(
            f"{where} has the dtype {dtype_name!r}, which huref cannot read; "
            f"known: {', '.join(DTYPES)}"
        )
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise CheckpointError(
            f"{where} has a shape or offsets that are not sizes; download it again"
        )
    dtype = DTYPES[dtype_name]
    count = 1
    for size in shape:
        count *= size
    start, stop = base + offsets[0], base + offsets[1]
    if stop - start != count * dtype.itemsize:
        raise CheckpointError(
            f"{where}: shape {shape} of {dtype_name} needs {count * dtype.itemsize} bytes, "
            f"the header gives it {stop - start}; download the file again"
        )
    if stop > source.size:
        raise CheckpointError(
            f"{where} ends at byte {stop}, but the file has {source.size}; it is truncated; "
            "download it again"
        )
    return StoredTensor(name, source.name, dtype, tuple(shape), start, stop)


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**62 for n in value)


def refuse_overlaps(file: str, entries: dict[str, StoredTensor]) -> None:
    """Raise CheckpointError when two tensors claim the same bytes."""
    last_stop, last_name = 0, ""
    for entry in sorted(entries.values(), key=lambda e: (e.start, e.stop)):
        if entry.start < last_stop:
            raise CheckpointError(
                f"{file}: tensors '{last_name}' and '{entry.name}' overlap; download it again"
            )
        last_stop, last_name = entry.stop, entry.name
