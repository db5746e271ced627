"""Units whose outputs sum to nothing, whatever the identity behind it.

Let unit i write h_i(t) d_i at token t, and let K be the Gram matrix of these outputs, scaled to
norm 1:

    K = (H^T H) * (D D^T)      elementwise; H (tokens, n), D (n, d)

Units of a trained network are linearly independent, and K is well conditioned. Where the outputs of
a set of units sum to zero, the set's norms are a null vector of K. The projection of all norms onto
the null space of K then has the norms of these units, and zero for all others. Up to EXACT_UNITS
units K is factorised. Of larger networks K is never formed: the projection is found by conjugate
gradients, on few tokens and in few directions. See docs/maths.md, Function.
"""

import torch
from torch import Tensor

from huref.invariants.unit_outputs import sample_outputs

EXACT_UNITS = 2560  # of a network whose K is factorised, which takes n^3 / 3 products
NULL = 1e-3  # eigenvalues of K far below this are null; trained networks have 0.06 and more
LEFT_OVER = 0.05  # of the root of the sum of the squared norms
WORKING = 0.1  # of what the network writes
PLACES = 2.5  # tokens times directions, for each unit; twice as many where a set is none
MOST_STEPS = 300  # of conjugate gradients; trained networks take 10 to 60
CONVERGED = 1e-3  # residual, in norms of the right side


def find_zero_sum(hidden: Tensor, down: Tensor) -> Tensor:
    """Indices of units whose outputs sum to nothing, (n,) int64, ascending.

    Args:
        hidden: hidden states (tokens, units).
        down: (units, d).
    """
    none = torch.zeros(0, dtype=torch.int64)
    norms = hidden.norm(dim=0) * down.norm(dim=1)
    alive: Tensor = (norms > 1e-6 * norms.max()).nonzero().flatten()
    if len(alive) < 2:
        return none
    all_alive = len(alive) == len(norms)
    if not all_alive:
        norms, hidden, down = norms[alive], hidden[:, alive], down[alive]
    if len(alive) <= EXACT_UNITS:
        found = _by_factors(hidden, down, norms)
        return none if found is None or not _is_idle(found, hidden, down, norms) else alive[found]
    for size in (PLACES, 2 * PLACES):
        found = _by_conjugate_gradients(hidden, down, size)
        if not found.any():
            return none
        if _is_idle(found, hidden, down, norms):
            return alive[found]
    return none


def _is_idle(found: Tensor, hidden: Tensor, down: Tensor, norms: Tensor) -> bool:
    """Whether some of the units write nothing together, and the others something."""
    together = float((hidden[:, found] @ down[found]).norm())
    small = together < LEFT_OVER * float(norms[found].norm())
    # Loud noise around a unit that works would make its output small beside the noise.
    small &= together < WORKING * float((hidden @ down).norm())
    return small and not bool(found.all())


def _by_factors(hidden: Tensor, down: Tensor, norms: Tensor) -> Tensor | None:
    """The units that the null space of K consists of, (n,) bool; None where there is none."""
    K = ((hidden.T @ hidden) * (down @ down.T)).double() / torch.outer(norms, norms)
    # A pivot is the part of an output that those before it do not explain.
    factor, failed = torch.linalg.cholesky_ex(K + NULL * torch.eye(len(K)))
    if int(failed) or float(factor.diagonal().min()) ** 2 > 10 * NULL:
        return None
    # NULL (K + NULL)^-1 is about 1 on the null space, and about 0 on what is orthogonal to it.
    null_part = NULL * torch.cholesky_solve(norms.double()[:, None], factor)[:, 0]
    found: Tensor = null_part / norms > 0.5
    return found


def _by_conjugate_gradients(hidden: Tensor, down: Tensor, places: float) -> Tensor:
    """Like `_by_factors`, of K on some tokens and in some directions, (n,) bool."""
    outputs = sample_outputs(hidden, down, places)
    solved = NULL * outputs.solve(outputs.sizes, NULL, MOST_STEPS, CONVERGED)
    found: Tensor = solved > 0.5 * outputs.sizes
    return found
