"""Sketches: the part of a model's terms that a registry stores, small enough to publish.

A term, minus its mean, is multiplied by a seeded rotation of its m x m entries (random signs, then
a cosine transform). Of the coefficients, the signs of 8,192 are kept; the seed chooses which. Six
terms give 49,152 seeded projections in 6,144 bytes. `huref.registry.correlation` estimates the
correlation of terms from them.

What a sketch reveals of the weights: the signs of 49,152 sums over all entries of products of
weights and embeddings, without any scale. No weight can be computed from them. But whoever has the
weights of a base can tell from the sketch whether the model descends from it, and whoever guesses
a token can tell whether it is an anchor.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct
from torch import Tensor

from huref.registry.anchor_codes import AnchorCodes, Mask

KEPT = 8192  # coefficients of each term
VERSION = "signs-1"

Codes = NDArray[np.uint8]
Projections = NDArray[np.float32]


def kept_of(m: int, kept: int = KEPT) -> int:
    """How many coefficients of an (m, m) term a sketch keeps: a multiple of 64."""
    return min(kept, m * m // 64 * 64)


@lru_cache(maxsize=16)
def _rotation(term: int, m: int, kept: int) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Signs (m * m,) and indices of the kept coefficients (kept,).

    They come from SHAKE-256, so they are the same in every version of every library. The indices
    of a smaller `kept` are the first ones of a larger.
    """
    stream = hashlib.shake_256(f"huref sketch 2 {term} {m}".encode()).digest(9 * m * m)
    signs = 1 - 2 * (np.frombuffer(stream[: m * m], np.uint8) & 1).astype(np.int8)
    keys = np.frombuffer(stream[m * m :], "<u8")
    return signs, np.argsort(keys, kind="stable")[:kept]


def project(terms: Tensor, used: Mask, kept: int = KEPT) -> Projections:
    """The kept coefficients of a model's terms.

    Args:
        terms: (layers, 3, m, m) float.
        used: (m,), the anchors whose rows and columns are used; the others count as 0.
        kept: how many to keep of each term. Registries use the default; the benchmark varies it.

    Returns:
        (layers * 3, kept), each row of length 1, or 0 for a constant term.
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


def pack(projections: Projections) -> Codes:
    """The signs of coefficients (..., kept) as bits, (..., kept / 8)."""
    return np.packbits(projections > 0, axis=-1)


def make_sketch(terms: Tensor, anchors: AnchorCodes, kept: int = KEPT) -> Codes:
    """The sketch of a model's terms, (layers * 3, kept / 8) uint8; all 0 for a constant term.

    Args:
        terms: (layers, 3, m, m) float.
        anchors: as `encode_anchors` returns them.
        kept: see `project`.
    """
    return pack(project(terms, anchors != 0, kept))
