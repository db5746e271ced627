"""How far a model and its descendant have moved apart, in function.

A term of a descendant is r times its ancestor's and a rest that is not correlated with it, so
1 - r^2 is the share of its energy that is not the ancestor's. `moved` is the mean over blocks and
terms. It does not depend on the basis, on scales, on renumbered units or on the vocabulary's order,
so a copy under other weights has moved by 0. The interval adds the error of a correlation, by a
jackknife over anchors, and the spread between blocks where not all were read (docs/maths.md,
Distance).
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from huref.invariants.record import Record
from huref.lineage.similarity import MIN_SHARED
from huref.lineage.term_sums import RowSums, centred_sums, row_sums

GROUPS = 16  # of anchors
# Ranges between an ancestor and its descendant, over models of known lineage: a few were measured,
# the upper ends follow from the least ICS of each kind (docs/measured/mixtures.md, Distance).
RANGES: tuple[tuple[str, float, float], ...] = (
    ("adapter or preference tuning", 0.0, 0.01),
    ("fine-tuning", 0.0, 0.24),
    ("continued pretraining", 0.09, 1.0),
    ("pruning", 0.0, 0.61),
)


@dataclass(frozen=True)
class Moved:
    """How far two models have moved apart.

    Attributes:
        share: mean of 1 - r^2 over blocks and terms, in [0, 1].
        low: lower end of its 95 % interval.
        high: upper end.
        blocks: number of blocks that were compared.
    """

    share: float
    low: float
    high: float
    blocks: int

    @property
    def like(self) -> list[str]:
        """What usually leaves a model as far from its ancestor."""
        return [kind for kind, low, high in RANGES if self.low <= high and self.high >= low]

    def to_json(self) -> dict[str, Any]:
        """The figure in `compare --json` (docs/json.md)."""
        return {**asdict(self), "like": self.like}


def measure_moved(
    a: Record, b: Record, pairs: Sequence[tuple[int, int]] = (), sums: RowSums | None = None
) -> Moved | None:
    """How far two models have moved apart.

    Args:
        a: record of one model.
        b: record of the other, of the same recipe.
        pairs: corresponding blocks (of a, of b), where all blocks were compared.
        sums: of records that are compared with several others.

    Returns:
        None where a record lacks terms, or too few anchors are shared.
    """
    if a.anchors is None or b.anchors is None or a.recipe.digest != b.recipe.digest:
        return None
    shared = a.anchors.shared(b.anchors)
    if len(shared) < MIN_SHARED or a.terms is None or b.terms is None:
        return None
    exact = [_moved_apart(x) for x in (sums or RowSums()).of_pair(a, b, shared)]
    figures, errors, blocks = [f for f, _ in exact], [e for _, e in exact], len(a.terms)
    whole = len(shared) == len(a.anchors.filled) == len(b.anchors.filled)
    if pairs and whole and (sketched := list(_sketched(a, b, pairs))):
        figures, errors = [f for f, _ in sketched], [e for _, e in sketched]
        blocks = len(sketched) // 3
    total = max(0 if r.traits is None else r.traits.blocks for r in (a, b))
    unread = max(1 - blocks / total, 0.0) if total else 1.0
    by_block = np.array(figures).reshape(blocks, -1).mean(axis=1)
    spread = float(np.array(figures).std()) / np.sqrt(len(by_block))
    error = np.hypot(np.linalg.norm(errors) / len(errors), spread * np.sqrt(unread))
    share = float(np.mean(figures))
    low, high = max(share - 2 * float(error), 0.0), min(share + 2 * float(error), 1.0)
    return Moved(min(max(share, 0.0), 1.0), low, high, blocks)


def _moved_apart(sums: np.ndarray) -> tuple[float, float]:
    """1 - r^2 of two terms, and its standard error by a jackknife over rows.

    Args:
        sums: (3, n) of the rows of both (`centred_sums`).
    """
    groups = np.arange(sums.shape[1]) % GROUPS
    by_group = np.stack([np.bincount(groups, part, GROUPS) for part in sums])
    total = by_group.sum(axis=1)

    def apart(parts: np.ndarray) -> np.ndarray:
        squared = parts[0].clip(0) ** 2 / (parts[1] * parts[2]).clip(1e-300)
        found: np.ndarray = (1 - squared).clip(0, 1)
        return found

    draws = apart(total[:, None] - by_group)
    error = np.sqrt((GROUPS - 1) / GROUPS * np.square(draws - draws.mean()).sum())
    return float(apart(total)), float(error)


def _sketched(
    a: Record, b: Record, pairs: Iterable[tuple[int, int]]
) -> Iterable[tuple[float, float]]:
    """1 - r^2 and its error, of the sketched terms of corresponding blocks, term by term."""
    if a.function is None or b.function is None:
        return
    rows_a, rows_b = (
        {int(block): i for i, block in enumerate(record.function.blocks.tolist())}
        for record in (a, b)
        if record.function is not None
    )
    for p, q in pairs:
        if p in rows_a and q in rows_b:
            terms = a.function.terms[rows_a[p]], b.function.terms[rows_b[q]]
            for x, y in zip(*(t.float().numpy() for t in terms), strict=True):
                yield _moved_apart(centred_sums(x, y, row_sums(x), row_sums(y)))
