"""Units whose outputs sum to nothing, whatever the identity behind it.

Let unit i write h_i(t) d_i at token t, and let K be the Gram matrix of these outputs, scaled to
norm 1:

    K = (H^T H) * (D D^T)      elementwise; H (tokens, n), D (n, d)

Units of a trained network are linearly independent, and K is well conditioned. Where the outputs of
a set of units sum to zero, the set's norms are a null vector of K. The projection of all norms onto
the null space of K then has the norms of these units, and zero for all others. See docs/maths.md,
Function.
"""

import torch
from torch import Tensor

MOST_UNITS = 2560  # of a network that is searched: the search takes n^3 products
NULL = 1e-3  # eigenvalues of K far below this are null; trained networks have 0.06 and more
LEFT_OVER = 0.05  # of the root of the sum of the squared norms
WORKING = 0.1  # of what the network writes


def find_zero_sum(hidden: Tensor, down: Tensor) -> Tensor:
    """Indices of units whose outputs sum to nothing, (n,) int64, ascending.

    Args:
        hidden: hidden states (tokens, units).
        down: (units, d).
    """
    none = torch.zeros(0, dtype=torch.int64)
    if len(down) > MOST_UNITS:
        return none
    norms = hidden.norm(dim=0) * down.norm(dim=1)
    alive = (norms > 1e-6 * norms.max()).nonzero().flatten()
    if len(alive) < 2:
        return none
    norms, hidden, down = norms[alive], hidden[:, alive], down[alive]
    K = ((hidden.T @ hidden) * (down @ down.T)).double() / torch.outer(norms, norms)
    # A pivot is the part of an output that those before it do not explain.
    factor, failed = torch.linalg.cholesky_ex(K + NULL * torch.eye(len(K)))
    if int(failed) or float(factor.diagonal().min()) ** 2 > 10 * NULL:
        return none
    # NULL (K + NULL)^-1 is about 1 on the null space, and about 0 on what is orthogonal to it.
    null_part = NULL * torch.cholesky_solve(norms.double()[:, None], factor)[:, 0]
    idle = null_part / norms > 0.5
    together = float((hidden[:, idle] @ down[idle]).norm())
    small = together < LEFT_OVER * float(norms[idle].norm())
    # Loud noise around a unit that works would make its output small beside the noise.
    small &= together < WORKING * float((hidden @ down).norm())
    return alive[idle] if small and not idle.all() else none
