"""Sums over the rows of two records' terms, from which their correlations follow.

Those of one record alone are made once, also where it is compared with many others. Sums are made
in 64 bits: of models that are one function, correlations differ from 1 by less than 32 bits hold.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from huref.invariants.record import Record
from huref.lineage.similarity import on_anchors


class RowSums:
    """The sums of records that are compared with each other."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, tuple[int, ...]], list[np.ndarray]] = {}

    def of_pair(self, a: Record, b: Record, shared: Sequence[int]) -> Iterator[np.ndarray]:
        """Of each term of two records, its `centred_sums` on the anchors that they share."""
        terms = _terms(a, shared), _terms(b, shared), self._of(a, shared), self._of(b, shared)
        for x, y, sums_x, sums_y in zip(*terms, strict=True):
            yield centred_sums(x, y, sums_x, sums_y)

    def _of(self, record: Record, shared: Sequence[int]) -> list[np.ndarray]:
        key = id(record), tuple(shared)
        if key not in self._made:
            self._made[key] = [row_sums(x) for x in _terms(record, shared)]
        return self._made[key]


def row_sums(x: np.ndarray) -> np.ndarray:
    """(2, n) float64: the sums of a term's rows, and of their squares."""
    return np.stack([x.sum(axis=1, dtype=np.float64), _products(x, x)])


def centred_sums(x: np.ndarray, y: np.ndarray, of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
    """(3, n) float64, row by row: sums of products and of squares of two terms without their means.

    Args:
        x: (n, k) float32, a term of one model.
        y: (n, k) float32, that of the other.
        of_x: its `row_sums`.
        of_y: those of the other.
    """
    k = x.shape[1]
    mean_x, mean_y = of_x[0].sum() / x.size, of_y[0].sum() / y.size
    return np.stack(
        [
            _products(x, y) - mean_y * of_x[0] - mean_x * of_y[0] + k * mean_x * mean_y,
            of_x[1] - 2 * mean_x * of_x[0] + k * mean_x**2,
            of_y[1] - 2 * mean_y * of_y[0] + k * mean_y**2,
        ]
    )


def _products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The inner products of the rows of two matrices, (n,) float64."""
    products: np.ndarray = np.einsum("rc,rc->r", x, y, dtype=np.float64)
    return products


def _terms(record: Record, shared: Sequence[int]) -> Iterator[np.ndarray]:
    assert record.terms is not None
    for term in record.terms.flatten(0, 1):
        yield on_anchors(term, shared).float().numpy()
