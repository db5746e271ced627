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

from collections.abc import Iterator

import torch
from torch import Tensor

from huref.invariants.unit_outputs import EXACT_UNITS, TINY, sample_outputs

NULL = 1e-3  # eigenvalues of K far below this are null; trained networks have 0.06 and more
OFF = (0.1, 0.03)  # from 1, at most, of the share that a unit of such a set has in the null space
LEFT_OVER = 0.05  # of the root of the sum of the squared norms
WORKING = 0.1  # of what the network writes
PLACES = (2.5, 5.0)  # tokens times directions, for each unit; the second where a set is none
MOST_STEPS = 300  # of conjugate gradients; trained networks take 7 to 53
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
    if len(alive) < len(norms):
        norms, hidden, down = norms[alive], hidden[:, alive], down[alive]
    for shares in _attempts(hidden, down, norms):
        if shares is None:
            return none
        for off in OFF:  # dependent units that write have other shares
            found = (shares - 1).abs() < off
            if found.any() and _is_idle(found, hidden, down, norms):
                return alive[found]
    return none


def _attempts(hidden: Tensor, down: Tensor, norms: Tensor) -> Iterator[Tensor | None]:
    """Share of each unit's norm that is in the null space of K, (n,); None where there is none."""
    if len(norms) <= EXACT_UNITS:
        yield _by_factors(hidden, down, norms)
    else:
        for places in PLACES:
            yield _by_conjugate_gradients(hidden, down, places)


def _is_idle(found: Tensor, hidden: Tensor, down: Tensor, norms: Tensor) -> bool:
    """Whether some of the units write nothing together, and the others something."""
    together = float((hidden[:, found] @ down[found]).norm())
    small = together < LEFT_OVER * float(norms[found].norm())
    # Loud noise around a unit that works would make its output small beside the noise.
    small &= together < WORKING * float((hidden @ down).norm())
    return small and not bool(found.all())


def _by_factors(hidden: Tensor, down: Tensor, norms: Tensor) -> Tensor | None:
    """See `_attempts`."""
    K = ((hidden.T @ hidden) * (down @ down.T)).double() / torch.outer(norms, norms)
    # A pivot is the part of an output that those before it do not explain.
    factor, failed = torch.linalg.cholesky_ex(K + NULL * torch.eye(len(K)))
    if int(failed) or float(factor.diagonal().min()) ** 2 > 10 * NULL:
        return None
    # NULL (K + NULL)^-1 is about 1 on the null space, and about 0 on what is orthogonal to it.
    null_part = NULL * torch.cholesky_solve(norms.double()[:, None], factor)[:, 0]
    shares: Tensor = null_part / norms
    return shares


def _by_conjugate_gradients(hidden: Tensor, down: Tensor, places: float) -> Tensor | None:
    """See `_attempts`; of K on some tokens and in some directions."""
    outputs = sample_outputs(hidden, down, places)
    solved = NULL * outputs.solve(outputs.sizes, NULL, MOST_STEPS, CONVERGED)
    shares: Tensor = solved / outputs.sizes.clamp(min=TINY)
    return shares if bool((shares > 0.5).any()) else None
