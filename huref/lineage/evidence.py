"""What is known of two models beyond their similarity, and what follows from it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from huref.lineage.retention import Retention

Verdict = Literal["descends", "shared initialisation", "unrelated", "inconclusive"]
Test = Literal["order", "agreement"]


@dataclass(frozen=True)
class UnitCount:
    """Feed-forward hidden units that correspond in one pair of blocks.

    Attributes:
        matched: how many the test counted.
        of: units of the smaller of the two networks; of a large one, those that were looked for.
        layer: index of the block of the first model.
    """

    matched: int
    of: int
    layer: int


@dataclass(frozen=True)
class LayerMap:
    """Which block of B comes from which block of A.

    Attributes:
        a_layers: block indices of A that were compared.
        b_layers: likewise of B.
        share: units that correspond, as a share, (len(a_layers), len(b_layers)) in [0, 1].
        source: for each of `b_layers` the block of A that it comes from, or None.
    """

    a_layers: tuple[int, ...]
    b_layers: tuple[int, ...]
    share: np.ndarray
    source: tuple[int | None, ...]

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Blocks that correspond, (of A, of B)."""
        both = zip(self.source, self.b_layers, strict=True)
        return tuple((a, b) for a, b in both if a is not None)


@dataclass(frozen=True)
class Direction:
    """Which of two models stands nearer their root, and what says so.

    That one is the other's parent, or a sibling of its parent; a pair alone cannot tell.
    """

    older: Literal["a", "b"]
    why: str


@dataclass(frozen=True)
class Evidence:
    """The tests of one pair; what could not be had is None, and `why` says so.

    Attributes:
        units: the count behind `log10_p`.
        log10_p: log10 of the test's p-value; exact for "order", calibrated for "agreement".
        test: which of the two it is.
        verdict: one of four, or None where nothing was tested.
        why: one sentence for the verdict, or for its absence.
        retention: how much of what each learned the other holds, where units correspond.
        direction: which model stands nearer their root, where that can be told.
        layer_map: which block comes from which, where all blocks were read.
    """

    units: UnitCount | None = None
    log10_p: float | None = None
    test: Test | None = None
    verdict: Verdict | None = None
    why: str = ""
    direction: Direction | None = None
    layer_map: LayerMap | None = None
    retention: Retention | None = None


@dataclass(frozen=True)
class Mixing:
    """How much of each parent a merged model took.

    Attributes:
        child: the merged model, as the user called it.
        parents: the models that it was mixed from.
        shares: share of each, in the order of `parents`.
        low: lower ends of the shares' 95 % intervals.
        high: upper ends.
    """

    child: str
    parents: tuple[str, ...]
    shares: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
