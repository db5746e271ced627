"""What the encoder is compared with: codes of terms that nobody had to train."""

import torch
from torch import Tensor

from huref.invariants.terms import standardise

LATENT = 512


class OrthogonalProjection:
    """A random projection of the standardised terms with orthonormal rows.

    A subsampled randomised Hadamard transform: each term's signs are flipped at random, a
    two-dimensional Hadamard transform spreads every entry over all, 512 of the outcomes are
    kept and summed over the six terms. A dense matrix of this size would hold 805 million
    numbers.
    """

    def __init__(self, anchors: int = 512, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        hadamard = torch.ones(1, 1)
        while len(hadamard) < anchors:
            hadamard = torch.kron(hadamard, torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        self._hadamard = hadamard
        self._signs = torch.randint(0, 2, (6, anchors, anchors), generator=generator) * 2.0 - 1
        self._kept = torch.stack(
            [torch.randperm(anchors * anchors, generator=generator)[:LATENT] for _ in range(6)]
        )

    def __call__(self, terms: Tensor) -> Tensor:
        """Terms (n, 2, 3, m, m) to latents (n, 512)."""
        x = standardise(terms).flatten(1, 2) * self._signs
        spread = (self._hadamard @ x @ self._hadamard / len(self._hadamard)).flatten(2)
        latents: Tensor = spread.gather(2, self._kept.expand(len(x), -1, -1)).sum(dim=1) / 6**0.5
        return latents


def mean_pooling(terms: Tensor) -> Tensor:
    """HuRef's other feature: the flattened terms in 512 equal parts, each part's mean.

    On whitened terms every row sums to zero, so what is left is rounding noise.

    Args:
        terms: (n, 2, 3, m, m).

    Returns:
        (n, 512), standardised.
    """
    parts = terms.reshape(len(terms), LATENT, -1).mean(dim=2)
    centred = parts - parts.mean(dim=1, keepdim=True)
    latents: Tensor = centred / centred.std(dim=1, keepdim=True)
    return latents
