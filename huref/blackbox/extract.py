"""The output projection of a served model, up to an invertible map (Carlini et al. 2024)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from huref.blackbox.heads import Head
from huref.blackbox.signature import Signature
from huref.errors import SignatureError
from huref.files import replacing


@dataclass(frozen=True)
class Projection:
    """Columns that span what the head of a served model can say.

    Attributes:
        weight: (s, r) float32; the true head, rows centred over the s tokens, is weight @ G.
        ids: (s,) int64 token ids.
        source: what it was extracted from.
    """

    weight: NDArray[np.float32]
    ids: NDArray[np.int64]
    source: str

    def save(self, path: Path) -> None:
        """Write a safetensors file; it appears whole or not at all."""
        tensors = {
            "projection": torch.from_numpy(self.weight).contiguous(),
            "ids": torch.from_numpy(self.ids.astype(np.int32)),
        }
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"source": self.source})


@dataclass(frozen=True)
class ProjectionError:
    """How far an extracted projection is from known weights.

    Attributes:
        rms: root mean square error of a weight after the best invertible map.
        relative: that over the root mean square of the centred weights.
    """

    rms: float
    relative: float

    def to_json(self) -> dict[str, Any]:
        """Both figures."""
        return {"rms": self.rms, "relative": self.relative}


def extract_projection(signature: Signature) -> Projection:
    """The projection behind a signature: its directions at the strength they are used with."""
    return Projection(signature.basis * signature.strength, signature.ids, signature.source)


def projection_error(projection: Projection, head: Head) -> ProjectionError:
    """Fit the map G by least squares and compare with a model's own head.

    Raises:
        SignatureError: the model's vocabulary lacks ids of the projection.
    """
    if projection.ids.max() >= head.vocabulary:
        raise SignatureError(
            f"{head.model}: its vocabulary of {head.vocabulary} lacks ids that "
            f"{projection.source} uses; they do not share a tokenizer"
        )
    truth = head.weight[projection.ids]
    truth = truth - truth.mean(axis=0)  # a constant over tokens is invisible after a softmax
    weight = projection.weight.astype(np.float64)
    mapped, *_ = np.linalg.lstsq(weight, truth, rcond=None)
    error = weight @ mapped - truth
    rms = float(np.sqrt(np.square(error).mean()))
    return ProjectionError(rms, rms / float(np.sqrt(np.square(truth).mean())))
