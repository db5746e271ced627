"""Units whose outputs sum to nothing, whatever the identity behind it.

Let unit i write h_i(t) d_i at token t, and let K be the Gram matrix of these outputs, scaled to
norm 1:

    K = (H^T H) * (D D^T)      elementwise; H (tokens, n), D (n, d)

Units of a trained network are linearly independent, and K is well conditioned. Where the outputs of
a set of units sum to zero, the set's norms are a null vector of K. The projection of all norms onto
the null space of K then has the norms of these units, and zero for all others. Up to EXACT_UNITS
units K is factorised. Of larger networks K is never formed: the projection is found by conjugate
gradients, on few tokens and few directions. See docs/maths.md, Function.
"""

import hashlib

import torch
from torch import Tensor

from huref.invariants.reproducible import one_thread

EXACT_UNITS = 2560  # of a network whose K is factorised, which takes n^3 / 3 products
NULL = 1e-3  # eigenvalues of K far below this are null; trained networks have 0.06 and more
LEFT_OVER = 0.05  # of the root of the sum of the squared norms
WORKING = 0.1  # of what the network writes
PLACES = 2.5  # tokens times directions a unit, at least, of those that are tried first
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
    for size in (PLACES, 4 * PLACES):
        found = _by_conjugate_gradients(hidden, down, norms, size)
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


def _by_conjugate_gradients(hidden: Tensor, down: Tensor, norms: Tensor, places: float) -> Tensor:
    """Like `_by_factors`, of K on some tokens and in some directions, (n,) bool.

    What sums to nothing does so on any tokens and in any directions. As long as these are more than
    the units by the factor `places`, little else does.

    Products with K take tokens x units x directions, twice: K x = rows of H * ((H x) D) D^T.
    """
    tokens, units = hidden.shape
    width = down.shape[1]
    side = int((places * units) ** 0.5)
    count = min(tokens, side)
    H = hidden[torch.linspace(0, tokens - 1, count).long()]
    directions = min(width, int(places * units / count) + 1)
    D = down if directions == width else down @ _directions(hidden, down, directions)
    sizes = H.norm(dim=0), D.norm(dim=1)
    alive = sizes[0] * sizes[1] > 1e-6 * (sizes[0] * sizes[1]).max()
    H = torch.where(alive, H / sizes[0].clamp(min=1e-30), 0.0)
    D = D / sizes[1].clamp(min=1e-30)[:, None]
    goal = torch.where(alive, sizes[0] * sizes[1], 0.0)
    goal = goal / goal.norm()

    solved, residual = torch.zeros_like(goal), goal.clone()
    step, squared = residual.clone(), _dot(residual, residual)
    for _ in range(MOST_STEPS):
        if squared < CONVERGED**2:
            break
        image = step + (H * (((H * step) @ D) @ D.T)).sum(dim=0) / NULL
        length = squared / _dot(step, image)
        solved += length * step
        residual -= length * image
        before, squared = squared, _dot(residual, residual)
        step = residual + (squared / before) * step
    found: Tensor = alive & (solved > 0.5 * goal)
    return found


def _dot(a: Tensor, b: Tensor) -> float:
    """The inner product of two vectors, with the same bits for any number of threads."""
    with one_thread():
        return float((a * b).sum())


def _directions(hidden: Tensor, down: Tensor, count: int) -> Tensor:
    """Random directions (d, count), drawn anew for every network.

    Units that cancel in known directions alone could be added to spoil the search.
    """
    probe = torch.linspace(1.0, 2.0, down.shape[1])
    digest = hashlib.blake2b((down @ probe + hidden.sum(dim=0)).numpy().tobytes(), digest_size=7)
    generator = torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little"))
    drawn: Tensor = torch.randn(down.shape[1], count, generator=generator) / count**0.5
    return drawn
