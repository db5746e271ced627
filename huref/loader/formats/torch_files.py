"""From torch's descriptions of tensors to byte ranges, for both layouts of its files."""

from collections.abc import Mapping

from huref.errors import CheckpointError
from huref.loader.formats.tensor_views import Storage, TensorView
from huref.loader.tensors import StoredTensor, contiguous_stride

MAX_PICKLE = 16 * 1024 * 1024  # bytes; a state dict of ten thousand tensors takes two million


def storage_bytes(storage: Storage) -> int:
    """Size of a storage in bytes."""
    return storage.count * (storage.dtype.itemsize if storage.dtype else 1)


def locate(
    tensors: Mapping[str, TensorView], places: Mapping[str, tuple[int, int]], file: str
) -> dict[str, StoredTensor]:
    """Index tensors by name, given each storage's byte range.

    Several tensors may be views of one storage: tied weights are.

    Raises:
        CheckpointError: a storage is missing or of another size, or a view leaves it.
    """
    entries = {}
    for name, view in tensors.items():
        where = f"{file}: tensor '{name[:200]}'"
        place = places.get(view.storage.key)
        if place is None or place[1] - place[0] != storage_bytes(view.storage):
            raise CheckpointError(f"{where} has no data of its size; download the file again")
        steps = sum((n - 1) * s for n, s in zip(view.shape, view.stride, strict=True))
        extent = 0 if 0 in view.shape else steps + 1
        start = place[0] + view.offset * view.dtype.itemsize
        stop = start + extent * view.dtype.itemsize
        if stop > place[1]:
            raise CheckpointError(f"{where} reaches beyond its data; download the file again")
        is_plain = all(
            stride == plain or size == 1
            for size, stride, plain in zip(
                view.shape, view.stride, contiguous_stride(view.shape), strict=True
            )
        )
        if not is_plain:
            _refuse_repetition(view, where)
        stride = None if is_plain else view.stride
        entries[name] = StoredTensor(name, file, view.dtype, view.shape, start, stop, stride)
    return entries


def _refuse_repetition(view: TensorView, where: str) -> None:
    """A view whose elements share bytes could claim any size for a few bytes."""
    reached = 1
    for stride, size in sorted(zip(view.stride, view.shape, strict=True)):
        if size > 1 and stride < reached:
            raise CheckpointError(f"{where} is a view that repeats its data, which no weight is")
        reached = stride * (size - 1) + reached if size > 1 else reached
