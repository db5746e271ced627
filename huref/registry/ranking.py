"""How alike a model and the entries of a registry are, and in which order they are shown."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from huref.lineage.similarity import MIN_SHARED
from huref.registry.entry import Query
from huref.registry.matrices import Matrices
from huref.registry.sketch import (
    AnchorCodes,
    Codes,
    Floats,
    Mask,
    correlate_sketches,
    correlate_terms,
    count_shared,
    lower_end,
    project,
    reach,
    shared_anchors,
    spread,
    strengthen,
)

Scores = tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64]]


class Ranking:
    """What is looked for, held against one part of a registry after the other."""

    def __init__(self, query: Query):
        self._query = query
        self._projections: dict[bytes, tuple[Floats, NDArray[Any]]] = {}  # by the anchors shared

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
        if query.terms is not None:
            own, factor = self._project(query.terms, shared, query.anchors != 0)
            found = correlate_terms(own, sketches)
        else:
            held = (int(np.count_nonzero(codes)) for codes in (anchors, query.anchors))
            factor = np.array(reach(int(shared.sum()), *held))
            found = correlate_sketches(query.sketch, sketches)
        deviation = spread(query.sketch.size * 8, measured=query.terms is not None)
        return np.clip(factor * found, -1, 1), float(np.sqrt(np.mean(factor**2))) * deviation

    def _project(self, terms: Tensor, shared: Mask, held: Mask) -> tuple[Floats, NDArray[Any]]:
        """The query's coefficients on some anchors, and what correlations by them are times."""
        key = shared.tobytes()
        if key not in self._projections:
            own = project(terms, shared), strengthen(terms, shared, held)
            self._projections[key] = own
        return self._projections[key]
