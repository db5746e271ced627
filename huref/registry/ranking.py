"""How alike a model and the entries of a registry are, and in which order they are shown."""

import numpy as np
from numpy.typing import NDArray

from huref.lineage.similarity import MIN_SHARED
from huref.registry.entry import Query
from huref.registry.matrices import Matrices
from huref.registry.sketch import (
    AnchorCodes,
    Codes,
    Floats,
    correlate_sketches,
    correlate_terms,
    count_shared,
    lower_end,
    project,
    reach,
    shared_anchors,
    spread,
)

Scores = tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64]]


class Ranking:
    """What is looked for, held against one part of a registry after the other."""

    def __init__(self, query: Query):
        self._query = query
        self._projections: dict[bytes, Floats] = {}  # of its terms, by the anchors that count

    def __call__(self, models: Matrices) -> Scores:
        """Rank, ICS by term and its deviation of each row; the rank is NaN where it cannot be."""
        query, count = self._query, len(models.latents)
        deviations = np.zeros(count)
        if query.sketch is None or query.anchors is None:
            norms = np.linalg.norm(models.latents, axis=1) * np.linalg.norm(query.latent)
            return models.latents @ query.latent / np.maximum(norms, 1e-30), None, deviations
        ranks, terms = np.full(count, np.nan), np.zeros((count, len(query.sketch)))
        for number, anchors in enumerate(models.vocabularies):
            rows = np.flatnonzero(models.vocabulary == number)
            if count_shared(query.anchors, anchors) < MIN_SHARED:
                continue
            of_rows = models.sketches if len(rows) == count else models.sketches[rows]
            terms[rows], deviation = self._correlate(of_rows, anchors)
            ranks[rows] = lower_end(terms[rows].mean(axis=1), deviation)
            deviations[rows] = deviation
        return ranks, terms, deviations

    def _correlate(
        self, sketches: Codes, anchors: AnchorCodes
    ) -> tuple[NDArray[np.float64], float]:
        """Correlations (n, terms) on the shared anchors, and the deviation of their mean."""
        query = self._query
        assert query.sketch is not None
        assert query.anchors is not None
        shared = shared_anchors(query.anchors, anchors)
        held, measured = [int(np.count_nonzero(anchors))], query.terms is not None
        if query.terms is not None:
            key = shared.tobytes()
            if key not in self._projections:
                self._projections[key] = project(query.terms, shared, query.sketch.shape[1] * 8)
            found = correlate_terms(self._projections[key], sketches)
        else:
            held.append(int(np.count_nonzero(query.anchors)))
            found = correlate_sketches(query.sketch, sketches)
        factor = reach(int(np.count_nonzero(shared)), *held)
        deviation = factor * spread(query.sketch.size * 8, measured=measured)
        return np.clip(factor * found, -1, 1), deviation
