"""Byte ranges of the tensors in torch files, from their pickled descriptions."""

from collections.abc import Mapping
from typing import NamedTuple

from huref.errors import CheckpointError, locating
from huref.loader.formats.pickled_tensors import Storage, TensorView
from huref.loader.tensors import StoredTensor, contiguous_stride

MAX_PICKLE = 16 * 1024 * 1024  # bytes; a state dict of ten thousand tensors takes two million
SAVE_AGAIN = "save the state dict again with torch.save, or as safetensors"


class Place(NamedTuple):
    """Byte range [start, stop) of a storage.

    `header` is where the header of its zip record begins, unless `start` is known without it.
    """

    start: int
    stop: int
    header: int | None = None


def storage_bytes(storage: Storage) -> int:
    """Size of a storage in bytes."""
    return storage.count * (storage.dtype.itemsize if storage.dtype else 1)


def locate(
    tensors: Mapping[str, TensorView], places: Mapping[str, Place], file: str
) -> dict[str, StoredTensor]:
    """Index tensors by name, given each storage's byte range.

    Several tensors may be views of one storage, as tied weights are.

    Raises:
        CheckpointError: a storage is missing or has another size, or a view exceeds it.
    """
    entries = {}
    for name, view in tensors.items():
        with locating(file=file, tensor=name[:200]):
            entries[name] = _locate(name, view, places, file)
    return entries


def _locate(name: str, view: TensorView, places: Mapping[str, Place], file: str) -> StoredTensor:
    place = places.get(view.storage.key)
    if place is None or place.stop - place.start != storage_bytes(view.storage):
        raise CheckpointError("its storage is missing or has another size", advice=SAVE_AGAIN)
    steps = sum((n - 1) * s for n, s in zip(view.shape, view.stride, strict=True))
    extent = 0 if 0 in view.shape else steps + 1
    start = place.start + view.offset * view.dtype.itemsize
    stop = start + extent * view.dtype.itemsize
    if stop > place.stop:
        raise CheckpointError("it exceeds its storage", advice=SAVE_AGAIN)
    is_row_major = all(
        stride == expected or size == 1
        for size, stride, expected in zip(
            view.shape, view.stride, contiguous_stride(view.shape), strict=True
        )
    )
    if not is_row_major:
        _refuse_repetition(view)
    stride = None if is_row_major else view.stride
    header = None if place.header is None else (place.header, place.start)
    return StoredTensor(
        name, file, view.dtype, view.shape, start, stop, stride=stride, header=header
    )


def _refuse_repetition(view: TensorView) -> None:
    """Raise CheckpointError for a view whose elements share bytes.

    Such a view can have any size, however small its storage is.
    """
    reached = 1
    for stride, size in sorted(zip(view.stride, view.shape, strict=True)):
        if size > 1 and stride < reached:
            raise CheckpointError("it is a view that repeats its data", advice=SAVE_AGAIN)
        reached = stride * (size - 1) + reached if size > 1 else reached
