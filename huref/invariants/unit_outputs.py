"""What the units of a network write, h_i(t) d_i at token t, without a matrix of all pairs of units.

The Gram matrix of these outputs is K = (H^T H) * (D D^T), elementwise, with H (tokens, n) and D
(n, d). K x is the diagonal of H^T (H diag(x) D) D^T, so a product with K takes two of H's and D's
sizes, and K x = b is solved by conjugate gradients (Hestenes and Stiefel, 1952).
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from huref.invariants.reproducible import one_thread

EXACT_UNITS = 2560  # of a network for which K is formed and factorised; n^3 / 3 products
TINY = 1e-30
LEAST = 1e-6  # of the loudest unit's output; quieter ones take no part


@dataclass(frozen=True)
class UnitOutputs:
    """Outputs of units, scaled to norm 1.

    Attributes:
        hidden: (tokens, n).
        down: (n, directions).
        sizes: norm of each output before, (n,); 0 for units that take no part.
    """

    hidden: Tensor
    down: Tensor
    sizes: Tensor

    def times_gram(self, x: Tensor) -> Tensor:
        """The product with the Gram matrix, (n,)."""
        return self.along((self.hidden * x) @ self.down)

    def along(self, written: Tensor) -> Tensor:
        """Inner product of every unit's scaled output with something written.

        Args:
            written: (tokens, directions).
        """
        return (self.hidden * (written @ self.down.T)).sum(dim=0)

    def solve(self, goal: Tensor, ridge: float, steps: int, converged: float) -> Tensor:
        """X with (K + ridge) x = goal, (n,).

        Args:
            goal: (n,).
            ridge: what is added to the diagonal, which is 1.
            steps: of conjugate gradients, at most.
            converged: residual at which they end, in norms of the goal.
        """
        solved, residual = torch.zeros_like(goal), goal.clone()
        step, squared = residual.clone(), _dot(goal, goal)
        enough = converged**2 * squared
        for _ in range(steps):
            if squared <= enough:
                break
            image = ridge * step + self.times_gram(step)
            length = squared / _dot(step, image)
            solved += length * step
            residual -= length * image
            before, squared = squared, _dot(residual, residual)
            step = residual + (squared / before) * step
        return solved


def sample_outputs(hidden: Tensor, down: Tensor, places: float) -> UnitOutputs:
    """Outputs on some of the tokens and in random directions.

    What sums to nothing does so on any tokens and in any directions. As long as these are together
    more than the units by the factor `places`, little else does.

    Args:
        hidden: (tokens, n).
        down: (n, d).
        places: tokens times directions, for each unit.
    """
    tokens, units = hidden.shape
    count = min(tokens, tokens_needed(units, down.shape[1], places))
    directions = min(down.shape[1], int(places * units / count) + 1)
    chosen = hidden[torch.linspace(0, tokens - 1, count).long()]
    if directions < down.shape[1]:
        down = down @ _directions(hidden, down, directions)
    across, along = chosen.norm(dim=0), down.norm(dim=1)
    sizes = across * along
    sizes = torch.where(sizes > LEAST * sizes.max(), sizes, 0.0)
    chosen = torch.where(sizes > 0, chosen / across.clamp(min=TINY), 0.0)
    return UnitOutputs(chosen, down / along.clamp(min=TINY)[:, None], sizes)


def tokens_needed(units: int, width: int, places: float) -> int:
    """Tokens with which `sample_outputs` takes about as many directions, or all of them."""
    least = places * units
    return int(max(least**0.5, least / width)) + 1


def _directions(hidden: Tensor, down: Tensor, count: int) -> Tensor:
    """Random directions (d, count), drawn anew for every network.

    Units that cancel in known directions alone could be added to spoil a search.
    """
    probe = torch.linspace(1.0, 2.0, down.shape[1], dtype=down.dtype)
    seen = (down @ probe + hidden.sum(dim=0)).float()
    digest = hashlib.blake2b(seen.numpy().tobytes(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    drawn: Tensor = torch.randn(down.shape[1], count, generator=generator) / count**0.5
    return drawn.to(down.dtype)


def _dot(a: Tensor, b: Tensor) -> float:
    """The inner product of two vectors, with the same bits for any number of threads."""
    with one_thread():
        return float((a * b).sum())
