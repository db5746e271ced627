"""Correlations of terms, estimated from sketches, with their errors.

Whatever a term looks like, its rotated coefficients are close to Gaussian, and those of two terms
of Pearson correlation rho are close to jointly Gaussian. Two estimates of rho from n of them:

- from one model's coefficients x and the other's signs s (`correlate_terms`). `huref identify`
  uses it, since it has just measured the model. E[x s] = rho sqrt(2 / pi) |x|; for unrelated terms
  the standard deviation is sqrt(pi / 2 / n), for related ones less. RaBitQ (Gao and Long, 2024)
  searches in this way.
- from the signs of both (`correlate_sketches`). They agree with probability 1 - arccos(rho) / pi
  (Goemans and Williamson, 1995; Charikar, 2002); the standard deviation is (pi / 2) / sqrt(n).

The first also works for models that share only some anchors: the other rows and columns are left
out of the model's own term before it is rotated, as `compare_records` does. They are still in the
other model's sketch and add to the deviation. How large they are there cannot be seen; their
share of the norm is taken to be as in the model itself (`norm_ratio`). docs/measured/registry.md
lists the errors.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from huref.registry.anchor_codes import Mask
from huref.registry.sketch import Codes, Projections

BITS = 6  # to which a model's own coefficients are rounded: an error of 0.04 standard deviations
BATCH = 256  # sketches per step: 1.5 MB, which fits into a CPU's cache


def correlate_terms(projections: Projections, sketches: Codes) -> NDArray[np.float64]:
    """Pearson correlations, by term, of one model's terms with those of sketched models.

    The coefficients are rounded to six bits, so that sums of some of them are counts of bits.

    Args:
        projections: (terms, kept), of the model, from `project`.
        sketches: (n, terms, kept / 8) uint8; may be a memory map.

    Returns:
        (n, terms); 0 where the model's term is constant.
    """
    kept = projections.shape[1]
    scale = np.abs(projections).max(axis=1, keepdims=True)
    middle = (2**BITS - 1) / 2
    levels = np.rint((projections / np.maximum(scale, 1e-30) + 1) * middle).astype(np.uint8)
    planes = [_words(np.packbits(levels >> bit & 1, axis=-1)) for bit in range(BITS)]
    rounded = (levels / middle - 1) * scale  # (terms, kept)
    sums = np.zeros((len(sketches), len(projections)))
    for start in range(0, len(sketches), BATCH):
        words = _words(sketches[start : start + BATCH])
        chosen = -middle * _count_bits(words)
        for bit, plane in enumerate(planes):
            chosen += 2**bit * _count_bits(words & plane)
        sums[start : start + BATCH] = chosen
    inner = 2 * sums / middle * scale[:, 0] - rounded.sum(axis=1)
    correlations: NDArray[np.float64] = math.sqrt(math.pi / 2 / kept) * inner
    return correlations


def correlate_sketches(sketch: Codes, sketches: Codes) -> NDArray[np.float64]:
    """Pearson correlations, by term, of the terms behind one sketch with those behind others.

    Args:
        sketch: (terms, kept / 8) uint8.
        sketches: (n, terms, kept / 8) uint8; may be a memory map.

    Returns:
        (n, terms); 0 where a term is constant.
    """
    kept, own = sketch.shape[1] * 8, _words(sketch)
    result = np.zeros((len(sketches), len(sketch)))
    for start in range(0, len(sketches), BATCH):
        words = _words(sketches[start : start + BATCH])
        agreement = 1 - 2 * _count_bits(words ^ own) / kept
        varies = own.any(axis=-1) & words.any(axis=-1)
        result[start : start + BATCH] = np.where(varies, from_agreement(agreement), 0)
    return result


def from_agreement(agreement: NDArray[Any]) -> NDArray[Any]:
    """The correlation that a mean product of signs (each +1 or -1) implies; any shape.

    For Gaussian x and y of correlation rho, E[sign x sign y] = 2 / pi * arcsin rho (Sheppard 1899).
    """
    return np.asarray(np.sin(math.pi / 2 * agreement))


def _words(codes: Codes) -> NDArray[np.uint64]:
    return np.ascontiguousarray(codes).view(np.uint64)


def _count_bits(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """How many bits are set along the last axis."""
    return np.asarray(np.bitwise_count(words).sum(axis=-1, dtype=np.uint32), np.float64)


def norm_ratio(terms: Tensor, shared: Mask, filled: Mask) -> NDArray[np.float64]:
    """Norm of each term over the filled anchors, divided by that over the shared ones, (terms,).

    A correlation that was normalised by the other model's norm over all anchors is multiplied by
    this ratio.
    """
    flat = terms.reshape(-1, len(filled), len(filled)).float().numpy()
    if np.array_equal(shared, filled):
        return np.ones(len(flat))
    whole, part = ([_norm(term[np.ix_(used, used)]) for term in flat] for used in (filled, shared))
    return np.divide(whole, part, out=np.ones(len(flat)), where=np.array(part) > 0)


def _norm(part: Projections) -> float:
    return float(part.std(dtype=np.float64)) * math.sqrt(part.size)


def anchor_ratio(shared: int, *filled: int) -> float:
    """`norm_ratio` for terms that are not at hand, as if all rows and columns had the same norm.

    Args:
        shared: the number of anchors that both models have.
        filled: the number of anchors of each model whose unshared ones were not left out.
    """
    return math.prod(count / max(shared, 1) for count in filled)


def ics_deviation(projections: int, *, measured: bool) -> float:
    """Standard deviation of the estimated ICS of two unrelated models from so many projections.

    Args:
        projections: of all terms.
        measured: whether one model's coefficients are compared with the other's signs; False if
            signs are compared with signs.
    """
    return (math.sqrt(math.pi / 2) if measured else math.pi / 2) / math.sqrt(projections)


def lower_bound(ics: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """ICS (n,) minus four standard deviations of the estimates.

    Models are ranked by it, so that an estimate from few shared anchors does not come first
    because of its noise alone.
    """
    return ics - 4 * np.sqrt(np.maximum(1 - ics * ics, 0)) * deviation
