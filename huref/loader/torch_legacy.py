"""Torch files from before version 1.6: five pickles, then each storage's length and bytes."""

from typing import Any

from huref.errors import CheckpointError
from huref.loader.ranges import ByteSource
from huref.loader.tensors import StoredTensor
from huref.loader.torch_files import MAX_PICKLE, locate, storage_bytes
from huref.loader.unpickle import EndOfPickleError, Storage, TensorView, state_dict, unpickle

MAGIC = 0x1950A86A20F9469CFC6C
FIRST_READ = 256 * 1024
LENGTH = 8  # bytes: an int64 with the number of elements before each storage


def is_legacy(head: bytes | bytearray) -> bool:
    """Whether a file's first bytes are a pickle of torch's magic number."""
    return MAGIC.to_bytes(10, "little") in head[:32]


def read_index(source: ByteSource) -> dict[str, StoredTensor]:
    """Index a legacy torch file, reading the pickles at its beginning only.

    Raises:
        CheckpointError: it is truncated, or a pickle holds more than tensors.
    """
    size = FIRST_READ
    data = source.read(0, min(size, source.size))
    while True:
        try:
            (magic, version, system, value, keys), end = _read_pickles(data, source.name)
            break
        except EndOfPickleError as error:
            if len(data) >= min(MAX_PICKLE, source.size):
                raise CheckpointError(
                    f"{source.name}: its pickles are cut short; download the file again"
                ) from error
            size *= 4
            data += source.read(len(data), min(size, source.size))
    if magic != MAGIC or version != 1001 or not isinstance(system, dict):
        raise CheckpointError(f"{source.name}: not a torch file of a known version")
    if system.get("little_endian") is False:
        raise CheckpointError(f"{source.name}: it was written on a big-endian machine")
    tensors = state_dict(value, source.name)
    return locate(tensors, _place(source, tensors, keys, end), source.name)


def _read_pickles(data: bytearray, file: str) -> tuple[list[Any], int]:
    values, position = [], 0
    for _ in range(5):
        value, position = unpickle(data, file, position)
        values.append(value)
    return values, position


def _place(
    source: ByteSource, tensors: dict[str, TensorView], keys: Any, position: int
) -> dict[str, tuple[int, int]]:
    """Byte range of each storage; they follow the pickles in the order of the keys."""
    storages: dict[str, Storage] = {v.storage.key: v.storage for v in tensors.values()}
    if not isinstance(keys, list) or not set(map(str, keys)) <= set(storages):
        raise CheckpointError(f"{source.name}: it holds storages that belong to no tensor")
    places = {}
    for key in map(str, keys):
        start = position + LENGTH
        position = start + storage_bytes(storages[key])
        if position > source.size:
            raise CheckpointError(
                f"{source.name}: its data ends at byte {position}, but the file has "
                f"{source.size}; it is truncated; download it again"
            )
        places[key] = (start, position)
    return places
