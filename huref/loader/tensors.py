"""Stores of tensors by name: the interface, and stores derived from other stores.

Stores are stacked. The lowest one, `StoredTensors`, reads byte ranges of files. Each store above
it derives its tensors from those of the store below: it renames them, dequantises them, or adds
an adapter's delta to them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from huref.errors import CheckpointError, locating, one_line

# What shapes, settings and numbers of files raise where a tensor is derived from others.
MISFIT = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's name, the file that holds it or its largest part, its dtype and its shape."""

    name: str
    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StoredTensor(TensorInfo):
    """A tensor in a file.

    Attributes:
        start, stop: its byte range [start, stop).
        stride: in elements; None for a row-major tensor. Torch files store views with a stride.
        ggml_type: the GGUF type number of a block-quantised tensor, whose `dtype` is the decoded
            one; None for plain values.
        unreadable: the name of a dtype that huref cannot read, or empty.
        header: of a zip record whose header is checked when the tensor is read: where the header
            begins, and where the record's data begin if the header has the expected length.
    """

    start: int
    stop: int
    stride: tuple[int, ...] | None = None
    ggml_type: int | None = None
    unreadable: str = ""
    header: tuple[int, int] | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.stop - self.start

    def row_range(self, row: int) -> tuple[int, int] | None:
        """Byte range of one index of the first axis; None when it is not contiguous."""
        if self.stride is None:
            size, rest = divmod(self.nbytes, self.shape[0])
            if rest:  # a vector that is stored in blocks of several numbers
                return None
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
    """Bytes as a row-major tensor of the given dtype and shape; copied only if not aligned."""
    if not len(data):
        return torch.empty(tuple(shape), dtype=dtype)
    raw = torch.frombuffer(data, dtype=torch.uint8)
    if raw.data_ptr() % dtype.itemsize:  # files need not align their tensors
        raw = raw.clone()
    return raw.view(dtype).view(tuple(shape))


class TensorStore(Protocol):
    """Tensors by name, read whole or by indices of their first axis."""

    @property
    def names(self) -> Collection[str]:
        """Names of all tensors."""
        ...

    def entry(self, name: str) -> TensorInfo:
        """A tensor's file, dtype and shape. Raises CheckpointError when there is no such tensor."""
        ...

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Whole tensors by name; adjacent ones in a file are read together."""
        ...

    def read_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """Indices `rows` of the first axis, (len(rows), ...), in the given order."""
        ...

    def read_sample(self, name: str, lines: int) -> Tensor:
        """About `lines` rows or columns, whichever are cheaper to read."""
        ...


@dataclass(frozen=True)
class Derived:
    """How a tensor is computed from others.

    Attributes:
        info: the resulting tensor's name, file, dtype and shape.
        sources: names of the tensors that it is computed from.
        combine: computes it from all sources, given in that order.
        by_rows: for each source, whether rows of the result need only the same rows of the source
            (True) or all of it (False); None when the result cannot be computed by rows.
        locate: maps a row of the result to (index of the source, row of the source), where each
            row of the result is a row of one source; otherwise None.
        by_sample: for each source, whether a sample of the result needs only its first rows (True)
            or all of it (False); None when a sample is simply the first rows of the result.
        combine_rows: computes some rows, from sources cut as `by_rows` says and the rows' indices;
            None where `combine` does that without knowing which rows they are.
    """

    info: TensorInfo
    sources: tuple[str, ...]
    combine: Callable[[list[Tensor]], Tensor]
    by_rows: tuple[bool, ...] | None = None
    locate: Callable[[int], tuple[int, int]] | None = None
    by_sample: tuple[bool, ...] | None = None
    combine_rows: Callable[[list[Tensor], Sequence[int]], Tensor] | None = None


def _combine(
    derived: Derived,
    parts: list[Tensor],
    rows: Sequence[int] | None = None,
    sample: bool = False,
) -> Tensor:
    """A derived tensor, or rows of it; only the shape of a sample is not known before."""
    with locating(file=derived.info.file, tensor=derived.info.name):
        try:
            if rows is not None and derived.combine_rows is not None:
                found = derived.combine_rows(parts, rows)
            else:
                found = derived.combine(parts)
        except MISFIT as error:
            raise _misfit(error) from error
        expected = list(derived.info.shape)
        if rows is not None:
            expected[:1] = [len(rows)]
        if sample or list(found.shape) == expected:
            return found
        raise _misfit(ValueError(f"{list(found.shape)} instead of {expected}"))


def _misfit(error: Exception) -> CheckpointError:
    return CheckpointError(
        f"the stored tensors that it is computed from do not fit together ({one_line(error)[:200]})"
    )


class DerivedTensors:
    """A store whose tensors are derived from another store's.

    Args:
        inner: the other store.
        names: names of the derived tensors.
        derive: how to compute the tensor of a name; called once for each name.
    """

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
            raise CheckpointError("it is missing from the weights", tensor=name)
        with locating(tensor=name):
            try:
                return self._derive(name)
            except MISFIT as error:
                raise _misfit(error) from error

    def entry(self, name: str) -> TensorInfo:
        """See TensorStore."""
        return self._derived(name).info

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """See TensorStore. A source is freed once no other tensor needs it."""
        wanted = {name: self._derived(name) for name in names}
        uses = Counter(source for derived in wanted.values() for source in derived.sources)
        raw = self.inner.read(uses)
        tensors = {}
        for name, derived in wanted.items():
            tensors[name] = _combine(derived, [raw[source] for source in derived.sources])
            uses.subtract(derived.sources)
            for source in derived.sources:
                if not uses[source]:
                    raw.pop(source, None)
        return tensors

    def read_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """See TensorStore. The whole tensor is read where it cannot be computed by rows."""
        derived = self._derived(name)
        if derived.locate is not None:
            return self._read_located(derived, derived.locate, rows)
        if derived.by_rows is not None:
            return _combine(derived, self._read_parts(derived, derived.by_rows, rows), rows)
        return self.read([name])[name][list(rows)]

    def read_sample(self, name: str, lines: int) -> Tensor:
        """See TensorStore."""
        derived = self._derived(name)
        if derived.by_sample is not None:
            parts = self._read_parts(derived, derived.by_sample, range(lines))
            return _combine(derived, parts, sample=True)
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
        by_source: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for position, row in enumerate(rows):
            source, source_row = locate(row)
            by_source[source].append((position, source_row))
        result = torch.empty((len(rows), *derived.info.shape[1:]), dtype=derived.info.dtype)
        for source, pairs in by_source.items():
            values = self.inner.read_rows(derived.sources[source], [row for _, row in pairs])
            result[[position for position, _ in pairs]] = values
        return result


def renamed(info: TensorInfo, name: str) -> TensorInfo:
    """The same tensor under another name."""
    return TensorInfo(name, info.file, info.dtype, info.shape)


def reordered(info: TensorInfo, source: str, order: Tensor) -> Derived:
    """A tensor whose row i is row order[i] of another one."""
    return Derived(
        info,
        (source,),
        lambda parts: parts[0][order],
        locate=lambda row: (0, int(order[row])),
    )


def rotary_halves(rows: int, heads: int) -> Tensor:
    """Row order that turns interleaved rotary pairs of a q or k projection into halves.

    (rows,) int64: row i of the published matrix is stored as row order[i].

    In published checkpoints, the first half of a head's rows holds the first coordinate of every
    rotary pair and the second half the second; Meta's files and GGUF store each pair's two rows
    side by side.
    """
    return torch.arange(rows).view(heads, -1, 2).transpose(1, 2).reshape(-1)
