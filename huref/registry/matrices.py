"""The numbers that a registry stores of many models, as matrices."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from huref.registry.anchor_codes import AnchorCodes
from huref.registry.entry import Entry
from huref.registry.sketch import Codes

Columns = tuple[NDArray[np.float32], Codes, AnchorCodes]


@dataclass(frozen=True)
class Matrices:
    """The latents, sketches and anchors of n models.

    Attributes:
        latents: (n, 512) float32.
        sketches: (n, terms, bytes) uint8.
        vocabularies: the distinct rows of anchor codes, (s, m) uint32.
        vocabulary: index of each model's row in `vocabularies`, (n,) int64.
    """

    latents: NDArray[np.float32]
    sketches: Codes
    vocabularies: AnchorCodes
    vocabulary: NDArray[np.int64]

    def columns(self) -> Columns:
        """Latents, sketches, and the anchor codes of every model (n, m)."""
        return self.latents, self.sketches, self.vocabularies[self.vocabulary]

    def take(self, rows: Sequence[int]) -> "Matrices":
        """The models of the given rows."""
        latents, sketches, anchors = self.columns()
        return from_columns([(latents[rows], sketches[rows], anchors[rows])])


def from_columns(parts: Sequence[Columns]) -> Matrices:
    """The concatenation of several parts; equal rows of anchors are stored once."""
    latents, sketches, anchors = (np.concatenate(column) for column in zip(*parts, strict=True))
    vocabularies, vocabulary = np.unique(anchors, axis=0, return_inverse=True)
    return Matrices(latents, sketches, vocabularies, vocabulary.reshape(-1).astype(np.int64))


def from_entries(entries: Sequence[Entry]) -> Matrices:
    """The matrices of some entries."""
    latents = np.stack([entry.latent for entry in entries])
    sketches = np.stack([entry.sketch for entry in entries])
    return from_columns([(latents, sketches, np.stack([entry.anchors for entry in entries]))])
