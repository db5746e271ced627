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

MIN_SHARED = 64  # anchors; the ICS of an unrelated pair then has a spread of 1/64 per term
EXACT = 64  # number of records up to which sums are computed in float64
ROWS = 256  # records of a group in one matrix product


@dataclass(frozen=True)
class Similarity:
    """The similarity of two models' terms and latents.

    Attributes:
        ics: mean Pearson correlation of matching terms in [-1, 1], or None.
        terms: the mean over blocks for each of qk, vo and ffn, or None.
        shared_anchors: number of buckets with the same string in both, or None.
        latent_cosine: cosine of the two latents, or None.
        why: the reason why a figure is missing; "" where none is.
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
    """Compare two records of one recipe on their shared anchors.

    Each record's terms are whitened with its own anchors, so shared rows and columns can be
    compared as they are (docs/maths.md, Whitening).
    """
    return compare_all([a, b])[0, 1]


def on_anchors(term: Tensor, chosen: Sequence[int]) -> Tensor:
    """The rows and columns of some anchors, ascending, of a term (m, m); no copy of all of it."""
    return term if len(chosen) == len(term) else term[chosen][:, chosen]


def compare_all(records: Sequence[Record]) -> Table:
    """Compare every two records of one recipe.

    Returns:
        The similarity of records i < j under (i, j).
    """
    cosines = _latent_cosines(records)
    table: Table = {}
    picture = "a picture holds only the latent; the ICS needs the weights or a record"
    for i in range(len(records)):
        for j in range(i + 1, len(records)):
            table[i, j] = Similarity(None, None, None, cosines.get((i, j)), picture)
    groups: dict[tuple[bytes, ...], list[int]] = {}
    for i, record in enumerate(records):
        if record.terms is not None and record.anchors is not None:
            groups.setdefault(record.anchors.tokens, []).append(i)
    for left, right in combinations_with_replacement(groups.values(), 2):
        shared = _shared(records[left[0]], records[right[0]])
        if len(shared) < MIN_SHARED:
            why = f"too few shared anchors: {len(shared)}, at least {MIN_SHARED} are needed"
            for i, j in _pairs(left, right):
                table[i, j] = Similarity(None, None, len(shared), cosines.get((i, j)), why)
            continue
        by_term = _correlate(records, left, right, shared)
        means = by_term.mean(axis=0)
        rows, columns = (
            {index: place for place, index in enumerate(group)} for group in (left, right)
        )
        for i, j in _pairs(left, right):
            row, column = (i, j) if i in rows and j in columns else (j, i)
            at = rows[row], columns[column]
            terms = dict(zip(TERMS, by_term[:, *at].tolist(), strict=True))
            table[i, j] = Similarity(float(means[at]), terms, len(shared), cosines.get((i, j)), "")
    return table


def _shared(a: Record, b: Record) -> list[int]:
    return a.anchors.shared(b.anchors) if a.anchors and b.anchors else []


def _pairs(left: Sequence[int], right: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of one index from each group."""
    return ((min(i, j), max(i, j)) for i in left for j in right if i < j or left is not right)


def _latent_cosines(records: Sequence[Record]) -> dict[tuple[int, int], float]:
    latents = {i: r.latent for i, r in enumerate(records) if r.latent is not None}
    if not latents:
        return {}
    rows = np.stack(list(latents.values())).astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    cosines = (rows @ rows.T).clip(-1, 1).tolist()  # rounding can exceed them
    places = list(enumerate(latents))
    return {(i, j): cosines[k][n] for k, i in places for n, j in places if i < j}


def _correlate(
    records: Sequence[Record], left: Sequence[int], right: Sequence[int], shared: Sequence[int]
) -> np.ndarray:
    """Correlations averaged over blocks, (3, records of `left`, records of `right`).

    For a group with itself only the pairs on one side of the diagonal are computed.
    """
    first = records[left[0]].terms
    assert first is not None
    total = np.zeros((len(TERMS), len(left), len(right)))
    for layer in range(len(first)):
        for term in range(len(TERMS)):
            x = _standardise(records, left, layer, term, shared)
            y = x if left is right else _standardise(records, right, layer, term, shared)
            for start in range(0, len(left), ROWS):
                after = start if left is right else 0
                product = x[start : start + ROWS] @ y[after:].T
                total[term, start : start + ROWS, after:] += product.double().numpy()
    return (total / len(first)).clip(-1, 1)


def _standardise(
    records: Sequence[Record],
    group: Sequence[int],
    layer: int,
    term: int,
    shared: Sequence[int],
) -> Tensor:
    """One term of some records on the shared anchors, centred, of norm 1, (records, s * s)."""
    dtype = torch.float64 if len(records) <= EXACT else torch.float32
    rows = torch.empty(len(group), len(shared) ** 2, dtype=dtype)
    for place, index in enumerate(group):
        terms = records[index].terms
        assert terms is not None
        rows[place] = on_anchors(terms[layer, term], shared).reshape(-1)
    rows -= rows.mean(dim=1, keepdim=True)
    # The correlation with a constant term is 0.
    rows /= rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return rows
