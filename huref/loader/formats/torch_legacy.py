"""Torch files from before torch 1.6: five pickles, then each storage's length and bytes."""

from collections.abc import Callable
from typing import Any

from huref.budget import Budget
from huref.errors import DOWNLOAD_AGAIN, CheckpointError, locating
from huref.loader.formats.pickle_machine import EndOfPickleError
from huref.loader.formats.pickled_tensors import Storage, TensorView, is_storage_key
from huref.loader.formats.torch_index import MAX_PICKLE, Place, storage_bytes
from huref.loader.formats.unpickle import STATE_DICTS, Allowlist, unpickle
from huref.loader.ranges import ByteSource

MAGIC = 0x1950A86A20F9469CFC6C
FIRST_READ = 256 * 1024
LENGTH = 8  # bytes: an int64 with the number of elements before each storage


def is_legacy(head: bytes | bytearray) -> bool:
    """Whether a file's first bytes are a pickle of torch's magic number."""
    return MAGIC.to_bytes(10, "little") in head[:32]


def read_contents(
    source: ByteSource, allowed: Allowlist = STATE_DICTS
) -> tuple[Any, dict[str, Place]]:
    """The described objects of a legacy torch file, and the byte range of each storage by key.

    Raises:
        CheckpointError: the file is truncated, or contains objects that are not allowed.
    """
    with locating(file=source.name):
        return _read_contents(source, allowed)


def _read_contents(source: ByteSource, allowed: Allowlist) -> tuple[Any, dict[str, Place]]:
    largest = min(MAX_PICKLE, source.size)
    data = source.read(0, min(FIRST_READ, largest))
    budget = Budget(len(data))

    def more() -> bool:
        added = min(3 * len(data), largest - len(data))
        data.extend(source.read(len(data), len(data) + added))
        budget.grow(added)
        return added > 0

    try:
        values, end = _read_pickles(data, source.name, allowed, budget, more)
    except EndOfPickleError as error:
        raise CheckpointError("its pickles are truncated", advice=DOWNLOAD_AGAIN) from error
    magic, version, system, value, keys = values
    if magic != MAGIC or version != 1001 or not isinstance(system, dict):
        raise CheckpointError(
            "it is not a torch file of a known version", advice="save it again with a recent torch"
        )
    if system.get("little_endian") is False:
        raise CheckpointError(
            "it was written on a big-endian machine", advice="save it as safetensors"
        )
    return value, _place(source, _storages(value), keys, end)


def _read_pickles(
    data: bytearray, file: str, allowed: Allowlist, budget: Budget, more: Callable[[], bool]
) -> tuple[list[Any], int]:
    values, position = [], 0
    for _ in range(5):
        value, position = unpickle(data, file, position, allowed, budget, more)
        values.append(value)
    return values, position


def _storages(value: Any) -> dict[str, Storage]:
    """The storages of all tensors in containers of any depth, which may share containers."""
    found: dict[str, Storage] = {}
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, TensorView):
            found[item.storage.key] = item.storage
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, dict) else item)
    return found


def _place(
    source: ByteSource, storages: dict[str, Storage], keys: Any, position: int
) -> dict[str, Place]:
    """Byte range of each storage; the storages follow the pickles in the order of the keys."""
    if (
        not isinstance(keys, list)
        or not all(map(is_storage_key, keys))
        or not set(map(str, keys)) <= set(storages)
    ):
        raise CheckpointError(
            "it has storages that belong to no tensor", advice="save the state dict alone"
        )
    places = {}
    for key in map(str, keys):
        start = position + LENGTH
        position = start + storage_bytes(storages[key])
        if position > source.size:
            raise CheckpointError(
                f"its data ends at byte {position}, but it has {source.size} bytes and is "
                "truncated",
                advice=DOWNLOAD_AGAIN,
            )
        places[key] = Place(start, position)
    if keys:
        last = str(keys[-1])
        start = places[last].start
        count = int.from_bytes(source.read(start - LENGTH, start), "little")
        if count != storages[last].count:  # bytes were lost or added somewhere before it
            raise CheckpointError(
                "its storages are not at the positions that its pickles describe",
                advice=DOWNLOAD_AGAIN,
            )
    return places
