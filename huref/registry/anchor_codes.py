"""Codes of anchors: which anchors two models share, without storing the tokens."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from huref.invariants.anchors import Anchors

AnchorCodes = NDArray[np.uint32]
Mask = NDArray[np.bool_]


def encode_anchors(anchors: Anchors) -> AnchorCodes:
    """A 32-bit code of each bucket's token, (m,) uint32; 0 for an empty bucket."""
    codes = np.zeros(len(anchors), np.uint32)
    for i in anchors.filled:
        digest = hashlib.sha256(b"huref anchor code 1\0" + anchors.tokens[i]).digest()
        codes[i] = max(int.from_bytes(digest[:4], "big"), 1)
    return codes


def shared_anchors(a: AnchorCodes, b: AnchorCodes) -> Mask:
    """The buckets in which two models have the same token, (m,)."""
    same: Mask = (a == b) & (a != 0)
    return same


def count_shared(a: AnchorCodes, b: AnchorCodes) -> int:
    """The number of buckets in which two models have the same token."""
    return int(np.count_nonzero(shared_anchors(a, b)))
