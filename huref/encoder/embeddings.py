"""Synthetic anchor embeddings, whitened once and drawn from many times.

Whitening costs an eigendecomposition, so a pool of embeddings is whitened beforehand, each with
noisier and noisier copies of itself. A draw permutes the rows: whitening commutes with that.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from huref.invariants.terms import whiten

NOISE_LEVELS = (0.0, 0.1, 0.3, 0.6)  # standard deviation of what a copy adds to unit rows
CHANGED = 0.2  # share of the anchors that a vocabulary extension replaces


@dataclass(frozen=True)
class Embedding:
    """Whitened embeddings (m, d) of a base, its noisy copies, and one with changed anchors.

    `agreement` holds, for each copy, two correlations with the base: of x = E w for a random w,
    and of the gated product (E w) * (E u). The correlation of a term is a product of these and
    of the factors' own.
    """

    copies: tuple[Tensor, ...]
    agreement: tuple[tuple[float, float], ...]
    changed: Tensor

    @property
    def width(self) -> int:
        """The number of columns."""
        return self.copies[0].shape[1]

    def to(self, device: str) -> "Embedding":
        """The same embeddings on another device."""
        copies = tuple(copy.to(device) for copy in self.copies)
        return Embedding(copies, self.agreement, self.changed.to(device))

    def permuted(self, order: Tensor) -> "Embedding":
        """The same embeddings with the anchors in another order."""
        return Embedding(
            tuple(copy[order] for copy in self.copies), self.agreement, self.changed[order]
        )


def _draw_rows(anchors: int, width: int, generator: torch.Generator) -> Tensor:
    """Raw embeddings (anchors, width): Gaussian, or with the habits of trained vocabularies."""
    uniform = torch.rand(5, generator=generator).tolist()
    rows = torch.randn(anchors, width, generator=generator)
    if uniform[0] < 0.5:  # a decaying spectrum
        rows *= torch.arange(1, width + 1).pow(-uniform[1])
    if uniform[2] < 0.3:  # norms that differ from token to token
        rows *= torch.randn(anchors, 1, generator=generator).exp()
    if uniform[3] < 0.3:  # untrained tokens: near copies of one vector
        count = int(anchors * 0.5 * uniform[4])
        rows[:count] = rows[:1] + 0.05 * rows[:count]
    return rows


def _agreement(base: Tensor, copy: Tensor) -> tuple[float, float]:
    inner = (base * copy).sum(dim=1)
    squares = base.square().sum(dim=1), copy.square().sum(dim=1)
    linear = inner.sum() / (squares[0].sum() * squares[1].sum()).sqrt()
    gated = inner.square().sum() / (squares[0].square().sum() * squares[1].square().sum()).sqrt()
    return float(linear), float(gated)


def draw_embedding(anchors: int, widths: list[int], generator: torch.Generator) -> Embedding:
    """One synthetic model's embeddings, whitened by the function that real models go through.

    Args:
        anchors: m, the number of rows; up to half of them may be empty (zero) in every copy.
        widths: the widths to choose from. Above m only the anchors' Gram matrix matters to
            Gaussian weights, and whitening makes it nearly the identity.
        generator: on the CPU.
    """
    width = widths[int(torch.randint(len(widths), (1,), generator=generator))]
    rows = _draw_rows(anchors, width, generator)
    rows = rows[torch.randperm(anchors, generator=generator)]
    scale = rows.square().mean(dim=1, keepdim=True).sqrt()
    share, chance = torch.rand(2, generator=generator).tolist()
    empty = torch.rand(anchors, generator=generator) < (0.5 * share if chance < 0.5 else 0.0)

    def finish(raw: Tensor) -> Tensor:
        return whiten(raw.masked_fill(empty[:, None], 0.0))

    copies = [finish(rows)]
    for level in NOISE_LEVELS[1:]:
        noise = torch.randn(anchors, width, generator=generator)
        copies.append(finish(rows + level * scale * noise))
    replaced = torch.rand(anchors, generator=generator) < CHANGED
    strangers = _draw_rows(anchors, width, generator)
    strangers *= rows.norm() / strangers.norm()
    changed = finish(torch.where(replaced[:, None], strangers, rows))
    agreement = tuple(_agreement(copies[0], copy) for copy in copies)
    return Embedding(tuple(copies), agreement, changed)


class EmbeddingPool:
    """A fixed set of whitened embeddings; every draw is one of them in a fresh order of rows."""

    def __init__(
        self, size: int, anchors: int, widths: list[int], seed: int, device: str = "cpu"
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.anchors = anchors
        self._entries = [draw_embedding(anchors, widths, generator).to(device) for _ in range(size)]

    def draw(self, generator: torch.Generator) -> Embedding:
        """One embedding, its rows permuted."""
        device = generator.device
        index = int(torch.randint(len(self._entries), (1,), generator=generator, device=device))
        order = torch.randperm(self.anchors, generator=generator, device=device)
        return self._entries[index].permuted(order)
