"""A sketch: what a registry keeps of a model's terms, small enough to publish.

A term, its mean taken off, is turned by a seeded rotation of its m x m entries (random signs, then
a cosine transform); 8,192 of the coefficients, chosen by the seed, are kept by their signs alone.
That is 49,152 seeded projections of six terms in 6,144 bytes.

Whatever a term looks like, its rotated coefficients are close to Gaussian, and those of two terms
of Pearson correlation rho are jointly so. From n of them rho follows in two ways:

- by one model's own coefficients x and the other's signs s (`correlate_terms`), the way of
  `huref identify`, which has just measured the model: E[x s] = rho sqrt(2 / pi) |x|; the standard
  deviation is sqrt(pi / 2 / n) where nothing is shared and less elsewhere. RaBitQ (Gao and Long,
  2024) searches so.
- by the signs of both (`correlate_sketches`): these agree in a share of 1 - arccos(rho) / pi
  (Goemans and Williamson, 1995; Charikar, 2002); the deviation is (pi / 2) / sqrt(n).

The first also serves models that share only some anchors: the rows and columns that the other
lacks are left out of the model's own term before it is turned, exactly as `compare_records` does.
What the other holds beside adds to the deviation; how strong it is beside the shared part cannot be
seen, and is taken to be as in the model itself (`strengthen`). docs/measured/registry.md
has the errors.

What it gives away of the weights: the signs of 49,152 sums over all entries of products of weights
and embeddings, without any scale. No weight follows from them. But whoever has the weights of a
base can tell from the sketch whether the model descends from it, and whoever guesses a token can
tell whether it is an anchor.
"""

import hashlib
import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct
from torch import Tensor

from huref.invariants.anchors import Anchors

KEPT = 8192  # coefficients of each term
VERSION = "signs-1"
PLANES = 6  # bits to which a model's own coefficients are rounded: an error of 0.04 of a deviation
AT_ONCE = 256  # sketches looked at together: 1.5 MB, which a cache holds

Codes = NDArray[np.uint8]
AnchorCodes = NDArray[np.uint32]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]


def kept_of(m: int, kept: int = KEPT) -> int:
    """How many coefficients of an (m, m) term a sketch keeps: whole words of 64."""
    return min(kept, m * m // 64 * 64)


@lru_cache(maxsize=16)
def _rotation(term: int, m: int, kept: int) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Signs (m * m,) and the coefficients that are kept, from SHAKE-256, so that they never change.

    Fewer of them are the first of more.
    """
    stream = hashlib.shake_256(f"huref sketch 2 {term} {m}".encode()).digest(9 * m * m)
    signs = 1 - 2 * (np.frombuffer(stream[: m * m], np.uint8) & 1).astype(np.int8)
    keys = np.frombuffer(stream[m * m :], "<u8")
    return signs, np.argsort(keys, kind="stable")[:kept]


def project(terms: Tensor, used: Mask, kept: int = KEPT) -> Floats:
    """The kept coefficients of a model's terms.

    Args:
        terms: (layers, 3, m, m) float.
        used: (m,), the anchors whose rows and columns count.
        kept: how many to keep of each term. Registries take the default; others are there to
            measure what it costs.

    Returns:
        (layers * 3, kept), each row of length 1, or 0 where a term does not vary.
    """
    m = len(used)
    result = []
    for number, term in enumerate(terms.reshape(-1, m, m).float().numpy()):
        signs, places = _rotation(number, m, kept_of(m, kept))
        whole = np.zeros((m, m), np.float32)
        part = term[np.ix_(used, used)]
        whole[np.ix_(used, used)] = part - part.mean(dtype=np.float64)
        rotated = dct(whole.reshape(-1) * signs, norm="ortho")[places]
        result.append(rotated / max(float(np.linalg.norm(rotated)), 1e-30))
    return np.stack(result).astype(np.float32, copy=False)


def pack(projections: Floats) -> Codes:
    """The signs of coefficients (..., kept) as bits, (..., kept / 8)."""
    return np.packbits(projections > 0, axis=-1)


def make_sketch(terms: Tensor, anchors: AnchorCodes, kept: int = KEPT) -> Codes:
    """The sketch of a model's terms, (layers * 3, kept / 8) uint8; a flat term's is 0.

    Args:
        terms: (layers, 3, m, m) float.
        anchors: as `encode_anchors` gives them.
        kept: see `project`.
    """
    return pack(project(terms, anchors != 0, kept))


def encode_anchors(anchors: Anchors) -> AnchorCodes:
    """A 32-bit code of each bucket's token, (m,) uint32; 0 for an empty bucket."""
    codes = np.zeros(len(anchors), np.uint32)
    for i in anchors.filled:
        digest = hashlib.sha256(b"huref anchor code 1\0" + anchors.tokens[i]).digest()
        codes[i] = max(int.from_bytes(digest[:4], "big"), 1)
    return codes


def shared_anchors(mine: AnchorCodes, theirs: AnchorCodes) -> Mask:
    """In which buckets two models hold the same token, (m,)."""
    same: Mask = (mine == theirs) & (mine != 0)
    return same


def count_shared(mine: AnchorCodes, theirs: AnchorCodes) -> int:
    """In how many buckets two models hold the same token."""
    return int(np.count_nonzero(shared_anchors(mine, theirs)))


def correlate_terms(one: Floats, many: Codes) -> NDArray[np.float64]:
    """Pearson correlations, by term, of one model's terms with those behind many sketches.

    The coefficients are rounded to six bits, so that sums over chosen ones become counts of bits.

    Args:
        one: (terms, kept), what `project` gives of the model.
        many: (n, terms, kept / 8) uint8; may be a memory map.

    Returns:
        (n, terms); 0 where the model's term does not vary.
    """
    kept = one.shape[1]
    scale = np.abs(one).max(axis=1, keepdims=True)
    middle = (2**PLANES - 1) / 2
    levels = np.rint((one / np.maximum(scale, 1e-30) + 1) * middle).astype(np.uint8)
    planes = [_words(np.packbits(levels >> bit & 1, axis=-1)) for bit in range(PLANES)]
    rounded = (levels / middle - 1) * scale  # (terms, kept)
    sums = np.zeros((len(many), len(one)))
    for start in range(0, len(many), AT_ONCE):
        words = _words(many[start : start + AT_ONCE])
        chosen = -middle * _count(words)
        for bit, plane in enumerate(planes):
            chosen += 2**bit * _count(words & plane)
        sums[start : start + AT_ONCE] = chosen
    inner = 2 * sums / middle * scale[:, 0] - rounded.sum(axis=1)
    correlations: NDArray[np.float64] = math.sqrt(math.pi / 2 / kept) * inner
    return correlations


def correlate_sketches(one: Codes, many: Codes) -> NDArray[np.float64]:
    """Pearson correlations, by term, of the terms behind one sketch with those behind many.

    Args:
        one: (terms, kept / 8) uint8.
        many: (n, terms, kept / 8) uint8; may be a memory map.

    Returns:
        (n, terms); 0 where a term does not vary.
    """
    kept, mine = one.shape[1] * 8, _words(one)
    result = np.zeros((len(many), len(one)))
    for start in range(0, len(many), AT_ONCE):
        words = _words(many[start : start + AT_ONCE])
        agreement = 1 - 2 * _count(words ^ mine) / kept
        varies = mine.any(axis=-1) & words.any(axis=-1)
        result[start : start + AT_ONCE] = np.where(varies, from_agreement(agreement), 0)
    return result


def from_agreement(agreement: NDArray[Any]) -> NDArray[Any]:
    """The correlation behind the mean product of signs, each +1 or -1, of any shape.

    For normal x and y of correlation rho, E[sign x sign y] = 2 / pi * arcsin rho (Sheppard 1899).
    """
    return np.asarray(np.sin(math.pi / 2 * agreement))


def _words(codes: Codes) -> NDArray[np.uint64]:
    return np.ascontiguousarray(codes).view(np.uint64)


def _count(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """How many bits are set along the last axis."""
    return np.asarray(np.bitwise_count(words).sum(axis=-1, dtype=np.uint32), np.float64)


def strengthen(terms: Tensor, shared: Mask, held: Mask) -> NDArray[np.float64]:
    """Norm of each term over the anchors a model holds, by that over the shared ones, (terms,).

    By so much a correlation is to be stretched that was divided by the other's whole norm.
    """
    flat = terms.reshape(-1, len(held), len(held)).float().numpy()
    if np.array_equal(shared, held):
        return np.ones(len(flat))
    whole, part = ([_norm(term[np.ix_(used, used)]) for term in flat] for used in (held, shared))
    return np.divide(whole, part, out=np.ones(len(flat)), where=np.array(part) > 0)


def _norm(part: Floats) -> float:
    return float(part.std(dtype=np.float64)) * math.sqrt(part.size)


def reach(shared: int, *held: int) -> float:
    """The same for terms that cannot be seen, as if all rows and columns were equally strong.

    Args:
        shared: anchors that both models hold.
        held: all anchors of each model whose others were not left out.
    """
    return math.prod(count / max(shared, 1) for count in held)


def spread(projections: int, *, measured: bool) -> float:
    """Standard deviation of the ICS of two unrelated models, over so many projections.

    `measured` tells a model's own coefficients against signs from signs against signs.
    """
    return (math.sqrt(math.pi / 2) if measured else math.pi / 2) / math.sqrt(projections)


def lower_end(ics: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """Where ICS (n,) lie at least, four standard deviations below their estimates.

    Models are ranked by it, so that an estimate from few shared anchors does not come first by
    its noise alone.
    """
    return ics - 4 * np.sqrt(np.maximum(1 - ics * ics, 0)) * deviation
