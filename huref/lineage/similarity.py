"""Invariant-terms cosine similarity (ICS) of two records."""

from dataclasses import dataclass

import numpy as np

from huref.invariants.record import Record
from huref.invariants.terms import TERMS, pearson

MIN_SHARED = 64  # anchors; the spread of an unrelated pair is 1/64 there, per term


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


def latent_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two latents (512,)."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-300))


def compare_records(a: Record, b: Record) -> Similarity:
    """Compare two records on the anchors that both hold.

    Each record's terms are whitened with its own anchors, so the shared rows and columns can be
    compared as they are (design, section 3). The recipes must be the same; see `lineage.table`.
    """
    cosine = None
    if a.latent is not None and b.latent is not None:
        cosine = latent_cosine(a.latent, b.latent)
    if a.terms is None or b.terms is None or a.anchors is None or b.anchors is None:
        why = "a picture carries only the latent; give the weights or a record for the ICS"
        return Similarity(None, None, None, cosine, why)
    shared = a.anchors.shared(b.anchors)
    if len(shared) < MIN_SHARED:
        why = f"not comparable on anchors: {len(shared)} shared, {MIN_SHARED} are needed"
        return Similarity(None, None, len(shared), cosine, why)
    x, y = a.terms, b.terms
    if len(shared) < len(a.anchors):
        x, y = (terms[:, :, shared][:, :, :, shared] for terms in (x, y))
    by_term = pearson(x, y).mean(dim=0)  # (layers, 3) -> (3,)
    terms = dict(zip(TERMS, by_term.tolist(), strict=True))
    return Similarity(float(by_term.mean()), terms, len(shared), cosine, "")
