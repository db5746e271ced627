"""Loss functions of encoder training (docs/maths.md, Encoder)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cosine_similarity

from huref.recipe import LATENT_SIZE


class Discriminator(nn.Sequential):
    """Distinguishes latents from samples of N(0, I); as published, of widths 512-256-128-1."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(LATENT_SIZE, 256),
            nn.ReLU(),
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.Linear(128, 1),
        )

    def loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Binary cross-entropy; real (n, 512) are samples of N(0, I), fake (n, 512) latents."""
        logits = self(torch.cat([real, fake])).squeeze(1)
        truth = torch.cat([torch.ones(len(real)), torch.zeros(len(fake))]).to(logits)
        return binary_cross_entropy_with_logits(logits, truth)

    def fooling(self, fake: Tensor) -> Tensor:
        """The encoder's adversarial loss: cross-entropy of latents (n, 512) labelled as real."""
        logits = self(fake).squeeze(1)
        return binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


def graded(base: Tensor, relative: Tensor, rho: Tensor) -> Tensor:
    """Squared error of cos z against the measured ICS, divided by the unavoidable variance.

    For Gaussian latents of correlation rho, cos z has a standard deviation of
    (1 - rho^2) / sqrt(512).

    Args:
        base: latents (n, 512).
        relative: latents (n, 512).
        rho: (n,), the ICS of each pair.
    """
    error = cosine_similarity(base, relative) - rho
    return (error.square() / ((1 - rho.square()).square() + 0.02)).mean()


def strangers(latents: Tensor, families: int) -> Tensor:
    """Cosines of all pairs of latents of different families, (pairs,).

    Args:
        latents: (k * families, 512); row i belongs to family i mod families.
        families: number of families.
    """
    unit = latents / latents.norm(dim=1, keepdim=True)
    i, j = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
    unrelated = i % families != j % families
    cosines: Tensor = (unit @ unit.T)[i[unrelated], j[unrelated]]
    return cosines


def across(latents: Tensor, earlier: Tensor) -> Tensor:
    """Cosines (n * k,) of latents (n, 512) with those of earlier batches (k, 512)."""
    unit, others = (z / z.norm(dim=1, keepdim=True) for z in (latents, earlier))
    cosines: Tensor = (unit @ others.T).flatten()
    return cosines


def moments(latents: Tensor) -> Tensor:
    """Deviation of second and fourth moments of latents (n, 512) from those of N(0, 1)."""
    square = latents.square()
    power = square.mean()
    return (power - 1).square() + 0.1 * (square.square().mean() - 3).square()


def paper_contrast(base: Tensor, relative: Tensor, weights: tuple[float, float]) -> Tensor:
    """HuRef's contrastive loss: w0 (1 - cos(anchor, positive)) + w1 |cos(anchor, negative)|.

    The negative of each row is the base of the next row.
    """
    positive = 1 - cosine_similarity(base, relative)
    negative = cosine_similarity(base, base.roll(1, dims=0)).abs()
    return (weights[0] * positive + weights[1] * negative).mean()
