"""A sketch: what a registry keeps of a model's terms, small enough to publish.

The anchors of a term stand in the order of a hash, so any fixed set of its entries is a random
sample of it. A sketch keeps six wrapped diagonals of each (m, m) term, shifted by amounts that
differ from term to term: every row and every column is read six times. For two models the
Pearson correlation over the kept entries estimates that over all of them with a standard
deviation of (1 - rho^2) / sqrt(n) over n entries, as long as rows are about equally strong, as
they are in the zoo's models. (docs/registry.md: up to twice that where they are not; seeded
projections of all entries keep to it there.) Unlike a projection, an entry belongs to one row and
one column, so models that share only some anchors are compared on the entries whose both anchors
they share, exactly as `compare_records` does.

What it gives away of the weights: about 1 % of the entries of the terms, rounded to 8 bits and
without their scale. No weight follows from them. But whoever has the weights of a base can tell
from the sketch whether the model descends from it, and whoever guesses a token can tell whether
it is an anchor.
"""

import hashlib
import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from huref.invariants.anchors import Anchors

DIAGONALS = 6  # of each term
VERSION = "diagonals-1"
LARGEST = 127  # the code of the largest entry of a term

Codes = NDArray[np.int8]
AnchorCodes = NDArray[np.uint32]


@lru_cache(maxsize=32)
def sketch_shifts(terms: int, m: int, diagonals: int = DIAGONALS) -> NDArray[np.int64]:
    """By how many columns each kept diagonal is shifted, (terms, 6); distinct within a term.

    From SHA-256, so that they never change. The main diagonal, on which a token meets itself, is
    left out.
    """
    shifts = []
    for term in range(terms):
        chosen: list[int] = []
        attempt = 0
        while len(chosen) < diagonals:
            digest = hashlib.sha256(f"huref sketch 1 {term} {attempt}".encode()).digest()
            shift = 1 + int.from_bytes(digest[:8], "big") % (m - 1)
            if shift not in chosen:
                chosen.append(shift)
            attempt += 1
        shifts.append(chosen)
    return np.array(shifts)


def make_sketch(terms: Tensor, diagonals: int = DIAGONALS) -> Codes:
    """The sketch of a model's terms.

    Args:
        terms: (layers, 3, m, m) float.
        diagonals: how many to keep of each term. Registries take the default; others are there
            to measure what it costs.

    Returns:
        (layers * 3, 6 m) int8: the entries (i, (i + shift) mod m) of each term, divided by the
        largest of them. A term of zeros stays zero.
    """
    m = terms.shape[-1]
    flat = terms.reshape(-1, m, m).float()
    shifts = torch.from_numpy(sketch_shifts(len(flat), m, diagonals))
    rows = torch.arange(m)
    columns = (rows[None, None, :] + shifts[:, :, None]) % m  # (terms, 6, m)
    entries = flat[torch.arange(len(flat))[:, None, None], rows, columns].reshape(len(flat), -1)
    return quantise(entries)


def quantise(entries: Tensor) -> Codes:
    """Entries (terms, k) as 8-bit codes in units of the largest of their term."""
    largest = entries.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    codes: Codes = (entries / largest * LARGEST).round().to(torch.int8).numpy()
    return codes


def encode_anchors(anchors: Anchors) -> AnchorCodes:
    """A 32-bit code of each bucket's token, (m,) uint32; 0 for an empty bucket."""
    codes = np.zeros(len(anchors), np.uint32)
    for i in anchors.filled:
        digest = hashlib.sha256(b"huref anchor code 1\0" + anchors.tokens[i]).digest()
        codes[i] = max(int.from_bytes(digest[:4], "big"), 1)
    return codes


def count_shared(mine: AnchorCodes, theirs: AnchorCodes) -> int:
    """In how many buckets two models hold the same token."""
    return int(np.count_nonzero((mine == theirs) & (mine != 0)))


def shared_entries(mine: AnchorCodes, theirs: AnchorCodes, terms: int) -> NDArray[np.bool_]:
    """Which entries of a sketch two models can be compared on, (terms, 6 m)."""
    shared = (mine == theirs) & (mine != 0)
    m = len(shared)
    columns = (np.arange(m) + sketch_shifts(terms, m)[:, :, None]) % m
    both: NDArray[np.bool_] = (shared & shared[columns]).reshape(terms, -1)
    return both


def correlate_sketches(
    one: Codes, many: Codes, shared: NDArray[np.bool_], block: int = 64
) -> NDArray[np.float64]:
    """Pearson correlation of one sketch with many, per term.

    Args:
        one: (terms, entries) int8.
        many: (n, terms, entries) int8; may be a memory map.
        shared: the entries to compare on, (terms, entries).
        block: sketches turned into floats at a time, so that memory stays small.

    Returns:
        (n, terms); 0 where a term does not vary.
    """
    kept = shared.astype(np.float32)
    count = np.maximum(kept.sum(axis=1), 1)  # (terms,)
    mine = one * kept
    mine -= kept * (mine.sum(axis=1) / count)[:, None]
    own = np.square(mine).sum(axis=1, dtype=np.float64)
    result = np.zeros((len(many), len(one)))
    # Per term the three columns give the sum of x y, of x, and (with squares) of x^2.
    weights = np.stack([mine, kept], axis=-1)  # (terms, entries, 2)
    for start in range(0, len(many), block):
        x = np.ascontiguousarray(many[start : start + block].transpose(1, 0, 2), np.float32)
        products = x @ weights  # (terms, block, 2)
        inner, sums = products[..., 0].T, products[..., 1].T
        squares = (np.square(x, out=x) @ kept[:, :, None])[..., 0].T
        variance = np.maximum(squares.astype(np.float64) - np.square(sums) / count, 0)
        norm = np.sqrt(variance * own)
        np.divide(inner, norm, out=result[start : start + block], where=norm > 0)
    return result


def lower_end(ics: NDArray[np.float64], entries: int) -> NDArray[np.float64]:
    """Where ICS (n,) lie at least, four standard deviations below their estimates.

    Models are ranked by it, so that an estimate from few shared anchors does not come first by
    its noise alone.
    """
    return ics - 4 * (1 - ics * ics) * spread(entries)


def spread(entries: int) -> float:
    """Standard deviation of the sketch's ICS of two unrelated models, over so many entries."""
    return 1 / math.sqrt(max(entries, 1))
