"""Synthetic anchor embeddings: a pool that is whitened once and sampled many times.

Whitening needs an eigendecomposition, so the pool holds embeddings that are already whitened, each
with noisy copies. A sample permutes the rows, which commutes with whitening.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from huref.invariants.terms import whiten

NOISE_LEVELS = (0.0, 0.1, 0.3, 0.6)  # standard deviation of a copy's noise, for rows of RMS 1
CHANGED = 0.2  # share of the anchors that a vocabulary extension replaces


@dataclass(frozen=True)
class AnchorEmbeddings:
    """Whitened anchor embeddings of a synthetic model and of variants of it.

    Attributes:
        copies: the model's own (m, d), then one copy for each further level of noise.
        agreement: for each copy, two correlations with the first: of x = E w for a random w, and
            of the gated product (E w) * (E u). The correlation of a term is a product of these
            and of the correlations of the weights.
        changed: the model's own (m, d) with a share CHANGED of the anchors replaced.
    """

    copies: tuple[Tensor, ...]
    agreement: tuple[tuple[float, float], ...]
    changed: Tensor

    @property
    def width(self) -> int:
        """Number of columns, d."""
        return self.copies[0].shape[1]

    def to(self, device: str) -> "AnchorEmbeddings":
        """The same embeddings on another device."""
        copies = tuple(copy.to(device) for copy in self.copies)
        return AnchorEmbeddings(copies, self.agreement, self.changed.to(device))

    def permuted(self, order: Tensor) -> "AnchorEmbeddings":
        """The same embeddings with the anchors in another order."""
        return AnchorEmbeddings(
            tuple(copy[order] for copy in self.copies), self.agreement, self.changed[order]
        )


def _draw_rows(anchors: int, width: int, generator: torch.Generator) -> Tensor:
    """Raw embeddings (anchors, width): Gaussian, or with properties of trained embeddings."""
    uniform = torch.rand(5, generator=generator).tolist()
    rows = torch.randn(anchors, width, generator=generator)
    if uniform[0] < 0.5:  # a decaying spectrum
        rows *= torch.arange(1, width + 1).pow(-uniform[1])
    if uniform[2] < 0.3:  # norms that vary between tokens
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


def draw_embedding(anchors: int, widths: list[int], generator: torch.Generator) -> AnchorEmbeddings:
    """Draw the embeddings of one synthetic model, whitened by the function used for real models.

    Args:
        anchors: m, the number of rows; up to half of them may be empty (zero) in all copies.
        widths: the widths to choose from. Widths above m add nothing: for Gaussian weights only
            the anchors' Gram matrix matters, and whitening makes it nearly the identity.
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
    others = _draw_rows(anchors, width, generator)
    others *= rows.norm() / others.norm()
    changed = finish(torch.where(replaced[:, None], others, rows))
    agreement = tuple(_agreement(copies[0], copy) for copy in copies)
    return AnchorEmbeddings(tuple(copies), agreement, changed)


class EmbeddingPool:
    """A fixed set of whitened embeddings, sampled with a random order of rows."""

    def __init__(
        self, size: int, anchors: int, widths: list[int], seed: int, device: str = "cpu"
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.anchors = anchors
        self._entries = [draw_embedding(anchors, widths, generator).to(device) for _ in range(size)]

    def draw(self, generator: torch.Generator) -> AnchorEmbeddings:
        """One of the embeddings, its rows permuted."""
        device = generator.device
        index = int(torch.randint(len(self._entries), (1,), generator=generator, device=device))
        order = torch.randperm(self.anchors, generator=generator, device=device)
        return self._entries[index].permuted(order)
