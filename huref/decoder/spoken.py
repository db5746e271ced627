"""A latent as four words that people can read out, and as a strip of colours.

Each word names the nearest of 32 fixed orthogonal directions. Close relatives share most words and
unrelated models few: at cos z 1, 0.99, 0.95, 0.8, 0.5 and 0 on average 4.0, 3.4, 2.7, 1.6, 0.7 and
0.1 of the four words are equal (`tests/decoder/test_caption.py`). The words are for talking about
pictures; only records and latents are evidence.
"""

import math

import numpy as np
from numpy.typing import NDArray

SWATCHES = 8

_WORDS = (
    # what it looks like
    "amber azure black bronze brown buff coral cobalt copper cream crimson dusky ebony fawn golden "
    "indigo ivory jade lilac maroon ochre olive pearl purple red russet sable scarlet silver "
    "tawny teal white",
    # how it behaves
    "bold brave bright brisk calm cheerful clever curious daring eager fleet gentle happy hardy "
    "jolly keen kind lively loyal merry mild noble patient playful proud quick quiet sleepy "
    "steady sturdy swift witty",
    # what it found
    "acorn apple birch bramble cedar clover daisy fern fig ginger heather ivy juniper laurel lemon "
    "lotus maple moss nettle oak pear pine plum poppy quince reed rose rowan sage thistle tulip "
    "willow",
    # where it lives
    "beach bridge brook canyon cave cliff creek desert field fjord forest garden glacier harbour "
    "hill island lagoon lake marsh meadow mesa moor mountain orchard park prairie river shore "
    "tundra valley village wood",
)
WORDS: tuple[tuple[str, ...], ...] = tuple(tuple(words.split()) for words in _WORDS)
CHOICES = 32
assert all(len(set(words)) == CHOICES for words in WORDS)


def _directions(first: int, count: int, size: int) -> NDArray[np.float64]:
    """Rows (count, size) of the discrete cosine transform, which are orthonormal."""
    rows = np.arange(first, first + count)[:, None]
    columns = np.arange(size)[None, :] + 0.5
    return np.asarray(math.sqrt(2 / size) * np.cos(math.pi * rows * columns / size))


def spoken_code(latent: NDArray[np.floating]) -> tuple[str, ...]:
    """Four words for a latent (512,); only its direction matters."""
    z = np.asarray(latent, dtype=np.float64)
    scores = _directions(1, len(WORDS) * CHOICES, len(z)) @ z
    # Neighbouring rows belong to different words, so that each word has low and high frequencies.
    nearest = scores.reshape(CHOICES, len(WORDS)).argmax(0)
    return tuple(words[i] for words, i in zip(WORDS, nearest, strict=True))


def colour_strip(latent: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Eight colours (8, 3) for a latent (512,) that change smoothly with its direction."""
    z = np.asarray(latent, dtype=np.float64)
    rows = _directions(1 + len(WORDS) * CHOICES, 3 * SWATCHES, len(z))
    scores = rows @ z * math.sqrt(len(z)) / np.linalg.norm(z)
    shares = np.array([0.5 * (1 + math.erf(score / math.sqrt(2))) for score in scores])
    return np.asarray(np.round(35 + 200 * shares).reshape(SWATCHES, 3), dtype=np.uint8)
