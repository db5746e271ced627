"""A digest of the drawings, by which a decoder names what it was distilled from."""

import hashlib
from functools import cache

import numpy as np

from scripts.dogs.attributes import ATTRIBUTES
from scripts.dogs.scene import draw

DRAWINGS, SIZE, CELL, STEP = 24, 32, 8, 4  # drawings, pixels, pixels, grey levels

# Decoders used to carry a digest of the source text of the drawing code. The code with the digest
# on the left drew the pictures with the digest on the right: 16 drawings of fixed seeds, each at
# 64, 128 and 256 pixels, were equal byte by byte.
SOURCE_DIGESTS = {"e4e2c6665a43": "176acbffd110"}


@cache
def drawing_digest() -> str:
    """Return a short digest of fixed drawings, which changes if the pictures change.

    The same code may differ by one grey level in a few pixels on another machine. The digest is
    therefore taken of means over cells of 8 x 8 pixels, rounded to steps of four grey levels.
    """
    attributes = np.random.default_rng(0).standard_normal((DRAWINGS, len(ATTRIBUTES)))
    images = np.stack([draw(each, SIZE) for each in attributes]).astype(np.float64)
    cells = images.reshape(DRAWINGS, SIZE // CELL, CELL, SIZE // CELL, CELL, 3).mean(axis=(2, 4))
    levels = np.round(cells / STEP).astype(np.uint8)
    return hashlib.sha256(levels.tobytes()).hexdigest()[:12]


def drawing_of(digest: str | None) -> str | None:
    """Return the drawing digest that an exported decoder's `drawing` stands for."""
    return SOURCE_DIGESTS.get(digest, digest) if digest else None
