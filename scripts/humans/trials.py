"""The questions of a test, determined by its seed.

Two tasks of 40 questions. *Matching*: which of 18 dogs is the relative's base? The others are
strangers. *Pairs*: do two pictures show the same lineage? Half of them are a base and a relative,
the other half a base and the nearest of 100 other dogs by pixels, the hardest case.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scripts.dogs.draw import LATENT_SIZE, relative

# Of fine-tunes and merges (.99), continued pretraining (.95), long pretraining (.9) and a child
# that is hardly one (.8); docs/measured/zoo.md and docs/measured/real.md.
COSINES = (0.99, 0.95, 0.9, 0.8)
QUESTIONS = 40  # of each task
CHOICES = 18
POOL = 100  # bases, of which every other is a stranger

Pictures = NDArray[np.uint8]
Draw = Callable[[NDArray[np.float64]], Pictures]


@dataclass(frozen=True)
class Matching:
    """A relative's picture, the pictures to choose from and the place of its base."""

    asked: int
    choices: tuple[int, ...]
    answer: int
    cosine: float


@dataclass(frozen=True)
class Pair:
    """Two pictures; a cosine of 0 means that they are strangers."""

    first: int
    second: int
    cosine: float


@dataclass(frozen=True)
class Trial:
    """The questions of a seed; numbers are indices of the pictures (n, r, r, 3)."""

    pictures: Pictures
    matching: tuple[Matching, ...]
    pairs: tuple[Pair, ...]


def nearest(pictures: Pictures, which: int) -> int:
    """The picture with the smallest mean absolute difference to one of pictures (n, r, r, 3)."""
    apart = np.abs(pictures.astype(np.int16) - pictures[which]).mean((1, 2, 3))
    apart[which] = np.inf
    return int(apart.argmin())


def make_trial(seed: int, draw: Draw) -> Trial:
    """The questions of a seed, from a function of latents (n, 512) to pictures (n, r, r, 3)."""
    rng = np.random.default_rng([seed, 0x68756D616E])  # apart from every other use of a seed
    bases = rng.standard_normal((POOL, LATENT_SIZE))
    subjects = rng.permutation(POOL)
    same = QUESTIONS // 2
    cosines = [COSINES[i % len(COSINES)] for i in range(QUESTIONS + same)]
    related = np.stack(
        [
            relative(bases[subjects[i]], rng.standard_normal(LATENT_SIZE), cosine)
            for i, cosine in enumerate(cosines)
        ]
    )
    pictures = draw(np.concatenate([bases, related]))
    matching = []
    for i in range(QUESTIONS):
        own = int(subjects[i])
        others = rng.permutation([b for b in range(POOL) if b != own])[: CHOICES - 1].tolist()
        place = int(rng.integers(CHOICES))
        choices = (*others[:place], own, *others[place:])
        matching.append(Matching(POOL + i, choices, place, cosines[i]))
    pairs = [
        Pair(int(subjects[i]), POOL + i, cosines[i]) for i in range(QUESTIONS, QUESTIONS + same)
    ]
    for which in subjects[-same:].tolist():
        pairs.append(Pair(which, nearest(pictures[:POOL], which), 0.0))
    # Shuffled, so that a picture's number does not tell a relative.
    order = rng.permutation(len(pictures))
    to = np.argsort(order).tolist()
    for i, one in enumerate(matching):
        choices = tuple(to[choice] for choice in one.choices)
        matching[i] = Matching(to[one.asked], choices, one.answer, one.cosine)
    pairs = [Pair(to[pair.first], to[pair.second], pair.cosine) for pair in pairs]
    return Trial(
        pictures[order],
        tuple(matching[i] for i in rng.permutation(len(matching))),
        tuple(pairs[i] for i in rng.permutation(len(pairs))),
    )
