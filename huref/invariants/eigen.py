"""Eigenvectors whose bits do not depend on the number of threads."""

import torch
from torch import Tensor


def eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.linalg.eigh` by one thread: LAPACK divides the work, and rounds, by their number.

    On two cores matrix products have the same bits for one thread and for two, so that with this
    the terms have, too. A 512 x 512 matrix takes 0.1 s.

    Args:
        matrices: (..., n, n), symmetric.

    Returns:
        Eigenvalues (..., n), ascending, and eigenvectors (..., n, n) in columns.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        values, vectors = torch.linalg.eigh(matrices)
    finally:
        torch.set_num_threads(threads)
    return values, vectors
