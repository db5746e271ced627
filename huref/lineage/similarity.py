"""Invariant-terms cosine similarity (ICS) of two records, or of all pairs of many at once.

Records that hold the same anchors are compared with one matrix product for each term, so a table
of a thousand models costs about as much as reading their records.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from torch import Tensor

from huref.invariants.record import Record
from huref.invariants.terms import TERMS

MIN_SHARED = 64  # anchors; the spread of an unrelated pair is 1/64 there, per term
EXACT = 64  # up to so many records sums are carried out in float64
ROWS = 256  # records of a group that are multiplied with the others at once


@dataclass(frozen=True)
class Similarity:
    """How alike two models' terms and latents are.

    Attributes:
        ics: mean Pearson correlation of matching terms in [-1, 1], or None.
        terms: the mean over layers for each of qk, vo and ffn, or None.
        shared_anchors: buckets in which both hold the same string, or None.
        latent_cosine: cosine of the two latents, or None.
        why: what a missing figure is missing for; "" when nothing is.
    """

    ics: float | None
    terms: dict[str, float] | None
    shared_anchors: int | None
    latent_cosine: float | None
    why: str


Table = dict[tuple[int, int], Similarity]


def latent_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two latents (512,)."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    cosine = float(x @ y / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-300))
    return min(1.0, max(-1.0, cosine))


def compare_records(a: Record, b: Record) -> Similarity:
    """Compare two records on the anchors that both hold.

    Each record's terms are whitened with its own anchors, so the shared rows and columns can be
    compared as they are (design, section 3). The recipes must be the same; see `lineage.table`.
    """
    return compare_all([a, b])[0, 1]


def compare_all(records: Sequence[Record]) -> Table:
    """Compare every two records of one recipe.

    Returns:
        The similarity of records i < j under (i, j).
    """
    cosines = _latent_cosines(records)
    table: Table = {}
    picture = "a picture carries only the latent; give the weights or a record for the ICS"
    for i in range(len(records)):
        for j in range(i + 1, len(records)):
            table[i, j] = Similarity(None, None, None, cosines.get((i, j)), picture)
    groups: dict[tuple[bytes, ...], list[int]] = {}
    for i, record in enumerate(records):
        if record.terms is not None and record.anchors is not None:
            groups.setdefault(record.anchors.tokens, []).append(i)
    for mine, theirs in combinations_with_replacement(groups.values(), 2):
        shared = _shared(records[mine[0]], records[theirs[0]])
        if len(shared) < MIN_SHARED:
            why = f"not comparable on anchors: {len(shared)} shared, {MIN_SHARED} are needed"
            for i, j in _pairs(mine, theirs):
                table[i, j] = Similarity(None, None, len(shared), cosines.get((i, j)), why)
            continue
        by_term = _correlate(records, mine, theirs, shared)
        at = [{index: place for place, index in enumerate(group)} for group in (mine, theirs)]
        for i, j in _pairs(mine, theirs):
            first, second = (i, j) if i in at[0] and j in at[1] else (j, i)
            values = by_term[:, at[0][first], at[1][second]]
            terms = dict(zip(TERMS, values.tolist(), strict=True))
            table[i, j] = Similarity(
                float(values.mean()), terms, len(shared), cosines.get((i, j)), ""
            )
    return table


def _shared(a: Record, b: Record) -> list[int]:
    return a.anchors.shared(b.anchors) if a.anchors and b.anchors else []


def _pairs(mine: Sequence[int], theirs: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of one from each group."""
    return ((min(i, j), max(i, j)) for i in mine for j in theirs if i < j or mine is not theirs)


def _latent_cosines(records: Sequence[Record]) -> dict[tuple[int, int], float]:
    held = {i: r.latent for i, r in enumerate(records) if r.latent is not None}
    if not held:
        return {}
    rows = np.stack(list(held.values())).astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    cosines = (rows @ rows.T).clip(-1, 1).tolist()  # rounding can exceed them
    return {(i, j): cosines[k][n] for k, i in enumerate(held) for n, j in enumerate(held) if i < j}


def _correlate(
    records: Sequence[Record], mine: Sequence[int], theirs: Sequence[int], shared: Sequence[int]
) -> np.ndarray:
    """Correlations averaged over layers, (3, records of mine, records of theirs).

    Of one group with itself only the pairs on one side of the diagonal are worked out.
    """
    first = records[mine[0]].terms
    assert first is not None
    total = np.zeros((len(TERMS), len(mine), len(theirs)))
    for layer in range(len(first)):
        for term in range(len(TERMS)):
            x = _standard(records, mine, layer, term, shared)
            y = x if mine is theirs else _standard(records, theirs, layer, term, shared)
            for start in range(0, len(mine), ROWS):
                after = start if mine is theirs else 0
                product = x[start : start + ROWS] @ y[after:].T
                total[term, start : start + ROWS, after:] += product.double().numpy()
    return (total / len(first)).clip(-1, 1)


def _standard(
    records: Sequence[Record],
    group: Sequence[int],
    layer: int,
    term: int,
    shared: Sequence[int],
) -> Tensor:
    """One term of some records on the shared anchors, centred and of length 1, (records, s * s)."""
    dtype = torch.float64 if len(records) <= EXACT else torch.float32
    rows = torch.empty(len(group), len(shared) ** 2, dtype=dtype)
    for place, index in enumerate(group):
        terms = records[index].terms
        assert terms is not None
        matrix = terms[layer, term]
        if len(shared) < len(matrix):
            matrix = matrix[shared][:, shared]
        flat = matrix.reshape(-1).to(dtype)
        flat = flat - flat.mean()
        # A term without variation correlates with nothing.
        torch.div(flat, flat.norm().clamp(min=1e-30), out=rows[place])
    return rows
