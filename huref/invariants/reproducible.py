"""Factorisations and sums whose bits do not depend on the number of threads.

On two cores matrix products, and sums along one axis of many, have the same bits for one thread and
for two. LAPACK's factorisations and sums to one number have not: the work is divided, and rounded,
by the number of threads.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def one_thread() -> Iterator[None]:
    """Run what is inside by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.linalg.eigh` by one thread; a 512 x 512 matrix takes 0.1 s.

    Args:
        matrices: (..., n, n), symmetric.

    Returns:
        Eigenvalues (..., n), ascending, and eigenvectors (..., n, n) in columns.
    """
    with one_thread():
        values, vectors = torch.linalg.eigh(matrices)
    return values, vectors


def row_norms(matrix: Tensor) -> Tensor:
    """Euclidean norms of the rows of a matrix (n, k), (n,), whichever axis is contiguous.

    For a transposed matrix `torch.norm` takes six times as long.
    """
    if matrix.stride(1) == 1:
        return matrix.norm(dim=1)
    parts = [part.square().sum(dim=1) for part in matrix.split(64, dim=1)]
    return torch.stack(parts).sum(dim=0).sqrt()


def energy(matrix: Tensor) -> Tensor:
    """The sum of the squares of all numbers, row by row and then over the rows; no axes."""
    with one_thread():
        total: Tensor = matrix.square().flatten(1).sum(dim=1).sum()
    return total
