"""How similar the entries of a registry are to a query, and their order in search results."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from huref.lineage.similarity import MIN_SHARED
from huref.registry.anchor_codes import AnchorCodes, Mask, count_shared, shared_anchors
from huref.registry.correlation import (
    anchor_ratio,
    correlate_sketches,
    correlate_terms,
    ics_deviation,
    lower_bound,
    norm_ratio,
)
from huref.registry.entry import Query
from huref.registry.matrices import Matrices
from huref.registry.sketch import Codes, Projections, project

Scores = tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64]]


class Ranking:
    """A query, compared with one part of a registry after the other."""

    def __init__(self, query: Query):
        self._query = query
        self._projections: dict[bytes, tuple[Projections, NDArray[Any]]] = {}  # by shared anchors

    def __call__(self, models: Matrices) -> Scores:
        """Rank of each row (n,), its ICS by term (n, terms), and the standard deviation (n,).

        The rank is NaN for a model with too few shared anchors. Without a sketch in the query
        the rank is the cosine of the latents and the ICS is None.
        """
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
            ranks[rows] = lower_bound(terms[rows].mean(axis=1), deviation)
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
            projections, factor = self._project(query.terms, shared, query.anchors != 0)
            found = correlate_terms(projections, sketches)
        else:
            filled = (int(np.count_nonzero(codes)) for codes in (anchors, query.anchors))
            factor = np.array(anchor_ratio(int(shared.sum()), *filled))
            found = correlate_sketches(query.sketch, sketches)
        deviation = ics_deviation(query.sketch.size * 8, measured=query.terms is not None)
        return np.clip(factor * found, -1, 1), float(np.sqrt(np.mean(factor**2))) * deviation

    def _project(
        self, terms: Tensor, shared: Mask, filled: Mask
    ) -> tuple[Projections, NDArray[Any]]:
        """The query's coefficients on the shared anchors, and the factor for its correlations."""
        key = shared.tobytes()
        if key not in self._projections:
            self._projections[key] = project(terms, shared), norm_ratio(terms, shared, filled)
        return self._projections[key]
