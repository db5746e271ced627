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
    """The output projection of a served model, up to an invertible map G.

    Attributes:
        weight: (s, r) float32; weight @ G is the true head, columns centred over the s tokens.
        ids: (s,) int64 token ids.
        source: name of the model or endpoint.
    """

    weight: NDArray[np.float32]
    ids: NDArray[np.int64]
    source: str

    def save(self, path: Path) -> None:
        """Write a safetensors file atomically."""
        tensors = {
            "projection": torch.from_numpy(self.weight).contiguous(),
            "ids": torch.from_numpy(self.ids.astype(np.int32)),
        }
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"source": self.source})


@dataclass(frozen=True)
class ProjectionError:
    """The error of an extracted projection against known weights.

    Attributes:
        rms: root mean square error of a weight after the best linear map.
        relative: rms divided by the root mean square of the centred weights.
    """

    rms: float
    relative: float

    def to_json(self) -> dict[str, Any]:
        """Both errors by name."""
        return {"rms": self.rms, "relative": self.relative}


def extract_projection(signature: Signature) -> Projection:
    """The projection that a signature implies: its basis scaled by the strength of the outputs."""
    return Projection(signature.basis * signature.strength, signature.ids, signature.source)


def projection_error(projection: Projection, head: Head) -> ProjectionError:
    """Fit the map G by least squares and compare with the head of an open model.

    Raises:
        SignatureError: the model's vocabulary lacks ids of the projection.
    """
    if projection.ids.max() >= head.vocabulary:
        raise SignatureError(
            f"its vocabulary of {head.vocabulary} tokens lacks ids that {projection.source} uses; "
            "they do not share a tokenizer",
            model=head.model,
        )
    truth = head.weight[projection.ids]
    truth = truth - truth.mean(axis=0)  # a constant over tokens is invisible after a softmax
    weight = projection.weight.astype(np.float64)
    mapped, *_ = np.linalg.lstsq(weight, truth, rcond=None)
    error = weight @ mapped - truth
    rms = float(np.sqrt(np.square(error).mean()))
    return ProjectionError(rms, rms / float(np.sqrt(np.square(truth).mean())))
