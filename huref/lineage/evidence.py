"""The evidence of a pair of models: tests, verdict, direction, layer map; and mixtures."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from huref.lineage.component import Component
from huref.lineage.moved import Moved
from huref.lineage.retention import Retention
from huref.lineage.sameness import Same
from huref.lineage.shares import Shares

Verdict = Literal[
    "descends", "contains parts", "shared initialisation", "unrelated", "inconclusive"
]
Test = Literal["order", "agreement"]


@dataclass(frozen=True)
class UnitCount:
    """Hidden units of the feed-forward networks that correspond in one pair of blocks.

    Attributes:
        matched: number of units that the test counted.
        of: number of units of the smaller network, or of the sample of a large one.
        layer: index of the first model's block.
    """

    matched: int
    of: int
    layer: int


@dataclass(frozen=True)
class LayerMap:
    """Which block of B comes from which block of A.

    Attributes:
        a_layers: indices of the compared blocks of A.
        b_layers: likewise of B.
        share: corresponding units as a share, (len(a_layers), len(b_layers)) in [0, 1].
        source: for each of `b_layers` the block of A that it comes from, or None.
    """

    a_layers: tuple[int, ...]
    b_layers: tuple[int, ...]
    share: np.ndarray
    source: tuple[int | None, ...]

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Corresponding blocks, (of A, of B)."""
        both = zip(self.source, self.b_layers, strict=True)
        return tuple((a, b) for a, b in both if a is not None)


@dataclass(frozen=True)
class Direction:
    """Which of two models is nearer their root, and the reason.

    The older model is the other's parent or a sibling of its parent; a pair alone cannot decide
    which.
    """

    older: Literal["a", "b"]
    why: str


@dataclass(frozen=True)
class Evidence:
    """The tests of one pair and the verdict; a figure that could not be measured is None.

    Attributes:
        units: the count behind `log10_p`.
        log10_p: log10 of the test's p-value; exact for "order", calibrated for "agreement".
        test: the test that gave it.
        verdict: None where nothing could be compared.
        why: the reason for the verdict or for its absence, in one sentence.
        direction: which model is nearer the root, where there is a sign of it.
        layer_map: which block comes from which, where all blocks were read.
        retention: how much of what each model learned the other retains, where units correspond.
        shares: how much of what each model computes has a counterpart in the other, likewise.
        same: whether the two are one model, and in which way.
        same_blocks: of how many blocks that is said, and how many there are.
        moved: how far they have moved apart, where they have a common origin.
        components: part by part, where that was asked for.
    """

    units: UnitCount | None = None
    log10_p: float | None = None
    test: Test | None = None
    verdict: Verdict | None = None
    why: str = ""
    direction: Direction | None = None
    layer_map: LayerMap | None = None
    retention: Retention | None = None
    shares: Shares | None = None
    same: Same | None = None
    same_blocks: tuple[int, int] | None = None
    moved: Moved | None = None
    components: tuple[Component, ...] | None = None


MergeMethod = Literal[
    "linear",
    "slerp",
    "task arithmetic",
    "ties",
    "dare linear",
    "dare ties",
    "breadcrumbs",
    "passthrough",
]


@dataclass(frozen=True)
class HalfShares:
    """Shares of the parents in one part of a merged model, with 95 % intervals."""

    shares: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class BlockShares:
    """Shares of the parents in one block of a merged model.

    Attributes:
        block: index of the block.
        both: of both halves, or None where they could not be measured.
        attention: of its attention, likewise.
        ffn: of its feed-forward network.
        sources: for each parent the index of the block that was merged into this one, or None.
    """

    block: int
    both: HalfShares | None
    attention: HalfShares | None
    ffn: HalfShares | None
    sources: tuple[int | None, ...]

    def to_json(self) -> dict[str, Any]:
        """The block in the JSON of a mixture (docs/json.md)."""
        both = {"shares": None, "low": None, "high": None}
        return {
            "block": self.block,
            **(both if self.both is None else asdict(self.both)),
            "attention": None if self.attention is None else asdict(self.attention),
            "ffn": None if self.ffn is None else asdict(self.ffn),
            "sources": list(self.sources),
        }


@dataclass(frozen=True)
class Mixing:
    """The shares of a merged model's parents.

    Attributes:
        child: the merged model, as the user called it.
        parents: the models that were merged.
        shares: share of each, in the order of `parents`; they add up to 1. None where they cannot
            be told, and `why` says why.
        low: lower ends of the shares' 95 % intervals.
        high: upper ends.
        method: how they were merged, as far as the weights show it.
        base: the common base whose changes were merged, or None.
        why: what the shares rest on, or why there are none.
        blocks: the shares by block, where weights were sampled.
    """

    child: str
    parents: tuple[str, ...]
    shares: tuple[float, ...] | None
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    method: MergeMethod | None = None
    base: str | None = None
    why: str = "token features of the hidden units are a weighted mean of the parents'"
    blocks: tuple[BlockShares, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The mixture in `compare --json` (docs/json.md)."""
        flat = {name: getattr(self, name) for name in ("child", "parents", "shares", "low", "high")}
        return {
            **flat,
            "method": self.method,
            "base": self.base,
            "why": self.why,
            "blocks": [block.to_json() for block in self.blocks],
        }
