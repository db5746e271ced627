"""Synthetic models: random weights whose terms are computed as those of real models.

A family is a base and its relatives. Either each factor of a relative (q, k, v, o, up, gate, down
and the embeddings) has a chosen correlation with the base's, or the relative is the base after an
accident, as real models have them: anchors replaced, blocks moved or missing, weights rounded.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from huref.architecture.block import Attention, Block, FeedForward
from huref.encoder.embeddings import AnchorEmbeddings, EmbeddingPool
from huref.invariants.terms import block_terms, flatten, pearson

ACCIDENTS = ("anchors", "moved", "missing", "fp16", "int4")


@dataclass(frozen=True)
class Shape:
    """The sizes of a synthetic model and the distribution of its weights.

    Attributes:
        decay: unit i has the scale i^-decay, which makes the spectra of the terms steep; 0: 1.
        heavy: whether weights are heavy-tailed (Gaussian with a lognormal scale).
    """

    width: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    gated: bool
    decay: float
    heavy: bool


Weights = dict[str, Tensor]


def _uniform(count: int, generator: torch.Generator) -> list[float]:
    numbers: list[float] = torch.rand(count, generator=generator, device=generator.device).tolist()
    return numbers


def _choose(options: tuple[int, ...], generator: torch.Generator) -> int:
    return options[int(_uniform(1, generator)[0] * len(options))]


def draw_shape(width: int, generator: torch.Generator) -> Shape:
    """Random sizes for a width, and a random distribution of weights."""
    uniform = _uniform(4, generator)
    kv_heads = _choose((1, 2, 4), generator)
    return Shape(
        width=width,
        heads=kv_heads * _choose((1, 2, 4), generator),
        kv_heads=kv_heads,
        head_dim=_choose((16, 32, 64), generator),
        hidden=_choose((128, 256, 512), generator),
        gated=uniform[0] < 0.7,
        decay=uniform[1] if uniform[2] < 0.4 else 0.0,
        heavy=uniform[3] < 0.2,
    )


def _scales(shape: Shape, units: int, device: torch.device) -> Tensor:
    return torch.arange(1, units + 1, dtype=torch.float32, device=device).pow(-shape.decay)


def _draw_scales(shape: Shape, generator: torch.Generator) -> Weights:
    """The standard deviation of every weight of a block and of a relative's noise."""
    device = generator.device
    attention, groups = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    per_head = _scales(shape, shape.head_dim, device)
    per_unit = _scales(shape, shape.hidden, device)
    sizes = {
        "q": (shape.width, attention, per_head.repeat(shape.heads)),
        "k": (shape.width, groups, per_head.repeat(shape.kv_heads)),
        "v": (shape.width, groups, per_head.repeat(shape.kv_heads)),
        "o": (shape.width, attention, per_head.repeat(shape.heads)),
        "up": (shape.width, shape.hidden, per_unit),
        "down": (shape.width, shape.hidden, per_unit),
    }
    if shape.gated:
        sizes["gate"] = (shape.width, shape.hidden, torch.ones(shape.hidden, device=device))
    scales = {}
    for name, (rows, columns, units) in sizes.items():
        if shape.heavy:
            noise = torch.randn(rows, columns, generator=generator, device=device)
            scales[name] = units * noise.exp()
        else:
            scales[name] = units.expand(rows, columns)
    return scales


class BaseBlock:
    """The weights of one block of a base, from which the blocks of relatives are drawn."""

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        self.shape = shape
        self._scales = _draw_scales(shape, generator)
        self._base = self._noise(generator)

    def _noise(self, generator: torch.Generator) -> Weights:
        return {
            name: torch.randn(scale.shape, generator=generator, device=generator.device) * scale
            for name, scale in self._scales.items()
        }

    def block(self, keep: dict[str, float] | None, generator: torch.Generator) -> Block:
        """The base's block, or a relative's block.

        Args:
            keep: correlations in [0, 1] of the relative's weights with the base's, for the keys
                "attention" and "ffn"; None for the base itself.
            generator: for the noise of a relative.
        """
        weights = self._base
        if keep is not None and min(keep.values()) < 1.0:
            noise = self._noise(generator)
            weights = {}
            for name, base in self._base.items():
                rho = keep["ffn" if name in ("up", "gate", "down") else "attention"]
                weights[name] = rho * base + math.sqrt(1 - rho * rho) * noise[name]
        return self._assemble(weights)

    def rounded(self, kind: str) -> Block:
        """The base's block with rounded weights: "fp16", or "int4" with one scale per column."""
        if kind == "fp16":
            return self._assemble({n: w.half().float() for n, w in self._base.items()})
        return self._assemble({n: _round_to_int4(w) for n, w in self._base.items()})

    def _assemble(self, weights: Weights) -> Block:
        shape = self.shape
        attention = Attention(
            weights["q"],
            weights["k"],
            weights["v"],
            weights["o"].T.contiguous(),
            shape.heads,
            shape.kv_heads,
        )
        ffn = FeedForward(weights["up"], weights.get("gate"), weights["down"].T)
        return Block(0, attention, ffn)


def _round_to_int4(weight: Tensor) -> Tensor:
    """Round to the nearest of 15 levels, with one scale per column."""
    step = weight.abs().amax(dim=0, keepdim=True).clamp(min=1e-12) / 7
    return (weight / step).round() * step


class Family:
    """A synthetic base of two blocks, and its relatives.

    All numbers are drawn on the generator's device; equal seeds give equal families.
    """

    def __init__(self, pool: EmbeddingPool, generator: torch.Generator) -> None:
        self._generator = generator
        self._embedding: AnchorEmbeddings = pool.draw(generator)
        self.shape = draw_shape(self._embedding.width, generator)
        self._blocks = [BaseBlock(self.shape, generator) for _ in range(2)]

    def base(self) -> Tensor:
        """The terms of the base, (2, 3, m, m)."""
        return self._terms([b.block(None, self._generator) for b in self._blocks])

    def relative(self, rho: float) -> Tensor:
        """Terms (2, 3, m, m) whose correlation with the base's is about `rho` in [0, 1].

        The expected correlation is `rho` before flattening; `ics` measures the actual one.
        """
        possible = [
            i
            for i, (linear, gated) in enumerate(self._embedding.agreement)
            if min(linear * linear, linear * gated) >= rho or i == 0
        ]
        level = _choose(tuple(possible), self._generator)
        linear, gated = self._embedding.agreement[level]
        keep = {"attention": math.sqrt(rho) / linear}
        if self.shape.gated:
            keep["ffn"] = (rho / (linear * gated)) ** (1 / 3)
        else:
            keep["ffn"] = math.sqrt(rho) / linear
        keep = {name: min(1.0, correlation) for name, correlation in keep.items()}
        blocks = [b.block(keep, self._generator) for b in self._blocks]
        return self._terms(blocks, self._embedding.copies[level])

    def accident(self, kind: str) -> Tensor:
        """Terms (2, 3, m, m) of the base after one of `ACCIDENTS`.

        "anchors": a fifth of the rows are other tokens. "moved": a block was inserted below, so
        the base's first block is read as the second. "missing": one block is zero. "fp16" and
        "int4": the weights were rounded.
        """
        g = self._generator
        if kind == "anchors":
            return self._terms([b.block(None, g) for b in self._blocks], self._embedding.changed)
        if kind == "moved":
            inserted = BaseBlock(self.shape, g)
            return self._terms([inserted.block(None, g), self._blocks[0].block(None, g)])
        if kind == "missing":
            terms = self.base()
            terms[_choose((0, 1), g)] = 0.0
            return terms
        return self._terms([b.rounded(kind) for b in self._blocks])

    def _terms(self, blocks: list[Block], E: Tensor | None = None) -> Tensor:
        E = self._embedding.copies[0] if E is None else E
        return flatten(torch.stack([block_terms(block, E) for block in blocks]))


def ics(a: Tensor, b: Tensor) -> Tensor:
    """Invariant-terms cosine similarity: the mean Pearson correlation of matching terms.

    Args:
        a: terms (..., 2, 3, m, m).
        b: terms of the same shape.

    Returns:
        (...,) float64.
    """
    return pearson(a, b).mean(dim=(-2, -1))
