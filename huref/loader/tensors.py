"""Tensors by name, whatever lies under them: what a store of them offers.

Stores are stacked. At the bottom, files are read in byte ranges; above it, each layer derives the
tensors that its upper neighbour wants to see from those that its lower neighbour has: published
names from a dialect's, plain matrices from quantised ones, a base's plus an adapter's.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from huref.errors import CheckpointError


@dataclass(frozen=True)
class TensorInfo:
    """What a tensor is called, the file that holds it (or its main part), dtype and shape."""

    name: str
    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StoredTensor(TensorInfo):
    """A tensor in a file.

    Attributes:
        start, stop: its byte range [start, stop).
        stride: in elements, where it is not the row-major one (torch files keep views).
        ggml_type: GGUF's number for a type in blocks; `dtype` is then what it decodes to.
    """

    start: int
    stop: int
    stride: tuple[int, ...] | None = None
    ggml_type: int | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.stop - self.start

    def row_range(self, row: int) -> tuple[int, int] | None:
        """Byte range of one index of the first axis; None when it is not in one piece."""
        if self.stride is None:
            size = self.nbytes // self.shape[0]
            return self.start + row * size, self.start + (row + 1) * size
        if self.stride[1:] != contiguous_stride(self.shape)[1:]:
            return None
        start = self.start + row * self.stride[0] * self.dtype.itemsize
        return start, start + prod(self.shape[1:]) * self.dtype.itemsize


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """The row-major stride of a shape, in elements."""
    stride: list[int] = []
    for axis in range(len(shape)):
        stride.append(prod(shape[axis + 1 :]))
    return tuple(stride)


def view_as(data: bytearray | memoryview, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """Bytes as a tensor (shape) of a dtype, row-major; not copied where they are aligned."""
    if not len(data):
        return torch.empty(tuple(shape), dtype=dtype)
    raw = torch.frombuffer(data, dtype=torch.uint8)
    if raw.data_ptr() % dtype.itemsize:  # nothing forces a file to align its tensors
        raw = raw.clone()
    return raw.view(dtype).view(tuple(shape))


class TensorStore(Protocol):
    """Tensors that can be read whole or by indices of their first axis."""

    @property
    def names(self) -> Collection[str]:
        """Names of all tensors."""
        ...

    def entry(self, name: str) -> TensorInfo:
        """What a tensor is. Raises CheckpointError when there is none of that name."""
        ...

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Whole tensors in their stored shapes and dtypes; neighbours in a file share one range."""
        ...

    def read_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """Some indices of the first axis, (len(rows), ...), in the order asked for."""
        ...

    def read_sample(self, name: str, lines: int) -> Tensor:
        """About `lines` rows or columns, whichever are cheap to read."""
        ...


@dataclass(frozen=True)
class Derived:
    """How a tensor comes from others.

    Attributes:
        info: what it is.
        sources: names of the tensors it is made of.
        combine: makes it, from all of them in that order.
        by_rows: for each source, whether rows of the result come from the same rows of it (or
            from all of it); None when rows of the result need more than that.
        locate: where the result is rows of its sources: row -> (index of the source, row of it).
        by_sample: for each source, whether its first rows alone still combine into columns.
    """

    info: TensorInfo
    sources: tuple[str, ...]
    combine: Callable[[list[Tensor]], Tensor]
    by_rows: tuple[bool, ...] | None = None
    locate: Callable[[int], tuple[int, int]] | None = None
    by_sample: tuple[bool, ...] | None = None


def _combined(derived: Derived, parts: list[Tensor]) -> Tensor:
    try:
        return derived.combine(parts)
    except (RuntimeError, IndexError) as error:  # what torch says of shapes and indices
        raise CheckpointError(
            f"{derived.info.file}: what '{derived.info.name}' is made of does not fit together "
            f"({error}); download it again"
        ) from error


class DerivedTensors:
    """A store whose tensors are derived from another store's."""

    def __init__(
        self, inner: TensorStore, names: Collection[str], derive: Callable[[str], Derived]
    ):
        self.inner = inner
        self._names = dict.fromkeys(names)
        self._derive = lru_cache(maxsize=None)(derive)

    @property
    def names(self) -> Collection[str]:
        """See TensorStore."""
        return self._names.keys()

    def _derived(self, name: str) -> Derived:
        if name not in self._names:
            raise CheckpointError(f"there is no tensor '{name}' in the weights")
        return self._derive(name)

    def entry(self, name: str) -> TensorInfo:
        """See TensorStore."""
        return self._derived(name).info

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """See TensorStore. What is no longer needed is let go on the way."""
        wanted = {name: self._derived(name) for name in names}
        uses = Counter(source for derived in wanted.values() for source in derived.sources)
        raw = self.inner.read(uses)
        tensors = {}
        for name, derived in wanted.items():
            tensors[name] = _combined(derived, [raw[source] for source in derived.sources])
            uses.subtract(derived.sources)
            for source in derived.sources:
                if not uses[source]:
                    raw.pop(source, None)
        return tensors

    def read_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """See TensorStore. The whole tensor is read where its rows cannot be had apart."""
        derived = self._derived(name)
        if derived.locate is not None:
            return self._read_located(derived, derived.locate, rows)
        if derived.by_rows is not None:
            return _combined(derived, self._read_parts(derived, derived.by_rows, rows))
        return self.read([name])[name][list(rows)]

    def read_sample(self, name: str, lines: int) -> Tensor:
        """See TensorStore."""
        derived = self._derived(name)
        if derived.by_sample is not None:
            return _combined(derived, self._read_parts(derived, derived.by_sample, range(lines)))
        return self.read_rows(name, range(min(lines, derived.info.shape[0])))

    def _read_parts(
        self, derived: Derived, cut: Sequence[bool], rows: Sequence[int]
    ) -> list[Tensor]:
        whole = [s for s, is_cut in zip(derived.sources, cut, strict=True) if not is_cut]
        tensors = self.inner.read(whole) if whole else {}
        return [
            self.inner.read_rows(source, rows) if is_cut else tensors[source]
            for source, is_cut in zip(derived.sources, cut, strict=True)
        ]

    def _read_located(
        self, derived: Derived, locate: Callable[[int], tuple[int, int]], rows: Sequence[int]
    ) -> Tensor:
        places: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for position, row in enumerate(rows):
            part, inner_row = locate(row)
            places[part].append((position, inner_row))
        found = torch.empty((len(rows), *derived.info.shape[1:]), dtype=derived.info.dtype)
        for part, wanted in places.items():
            values = self.inner.read_rows(derived.sources[part], [row for _, row in wanted])
            found[[position for position, _ in wanted]] = values
        return found


def renamed(info: TensorInfo, name: str) -> TensorInfo:
    """The same tensor under another name."""
    return TensorInfo(name, info.file, info.dtype, info.shape)


def reordered(info: TensorInfo, source: str, order: Tensor) -> Derived:
    """A tensor whose first axis is another's in a different order: row i is its row order[i]."""
    return Derived(
        info,
        (source,),
        lambda parts: parts[0][order],
        locate=lambda row: (0, int(order[row])),
    )


def rotary_halves(rows: int, heads: int) -> Tensor:
    """Where the rows of a q or k projection lie that is stored in interleaved rotary pairs.

    (rows,) int64: row i of the published matrix is stored at the i-th of these.

    Published checkpoints keep a head's first rotary coordinates in its first half and the second
    ones in the other; Meta's and GGUF's keep each pair side by side.
    """
    return torch.arange(rows).view(heads, -1, 2).transpose(1, 2).reshape(-1)
