"""A signature: an orthonormal basis of an endpoint's logit image, in a small file.

A signature may be published. It determines the head only up to an invertible matrix. The encoder
takes its terms to draw the endpoint's picture.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from huref.blackbox.prompts import make_prompts
from huref.blackbox.size import MARGIN, clr, measure_size
from huref.blackbox.sources import Source
from huref.errors import BudgetError, SignatureError
from huref.files import replacing

Matrix = NDArray[np.float64]

FORMAT = "huref signature 1"
NOT_A_SIGNATURE = "it is not a signature made by `huref probe signature`"
TERMS = (2, 3)  # numbers of blocks and of terms, as in a record
_SEED = 20240314
_MAX_IDS = 4096  # token ids that enter the terms


@dataclass(frozen=True)
class Signature:
    """The logit image of a source.

    Attributes:
        basis: (s, r) float32 orthonormal columns, strongest direction first.
        strength: (r,) float32 root mean square of the outputs along each column.
        ids: (s,) int64 token ids of the rows, in the order of `order_ids`.
        noise: standard deviation (nat) of one output value.
        source: name of the endpoint or model.
        norm, precision: see `Size`.
    """

    basis: NDArray[np.float32]
    strength: NDArray[np.float32]
    ids: NDArray[np.int64]
    noise: float
    source: str
    norm: str
    precision: str

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings that two signatures must share to be comparable."""
        return {"format": FORMAT, "ids": "mixed order", "transform": "clr"}

    @property
    def digest(self) -> str:
        """Short digest of the recipe."""
        return hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()[:12]

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        tensors = {
            "basis": torch.from_numpy(self.basis).contiguous(),
            "strength": torch.from_numpy(self.strength).contiguous(),
            "ids": torch.from_numpy(self.ids.astype(np.int32)),
        }
        texts = {
            "format": FORMAT,
            "recipe": json.dumps(self.recipe, sort_keys=True),
            "source": self.source,
            "norm": self.norm,
            "precision": self.precision,
            "noise": repr(self.noise),
        }
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=texts)

    def terms(self, m: int) -> Tensor:
        """Six sketches of the projector onto the image, (2, 3, m, m) float32, for the encoder.

        The projector P depends on the image alone. A sketch is G (P - mean) H for two Gaussian
        matrices that are seeded by each token's id. Like the terms of weights it is approximately
        Gaussian, and sketches of two endpoints correlate as their images overlap.
        """
        ids, basis = self.ids[:_MAX_IDS], self.basis[:_MAX_IDS].astype(np.float32)
        mean = np.float32(np.square(basis).sum() / len(ids))
        draws = np.stack([_gaussians(int(token), m) for token in ids])  # (s, 12, m)
        sketches = []
        for t in range(TERMS[0] * TERMS[1]):
            left, right = draws[:, 2 * t], draws[:, 2 * t + 1]
            sketches.append((left.T @ basis) @ (basis.T @ right) - mean * (left.T @ right))
        return torch.from_numpy(np.stack(sketches).reshape(*TERMS, m, m))


def _gaussians(token: int, m: int) -> NDArray[np.float32]:
    generator = np.random.Generator(np.random.PCG64([_SEED, token]))
    values: NDArray[np.float32] = generator.standard_normal((12, m), dtype=np.float32)
    return values


def make_signature(source: Source, rank: int | None = None) -> Signature:
    """Measure a source's logit image.

    Args:
        source: a model or an endpoint.
        rank: number of dimensions of the image, if known; otherwise it is measured first.

    Raises:
        SignatureError: the rank cannot be determined, or outputs cannot be measured.
        BudgetError: the budget does not cover the outputs needed.
    """
    if source.obstacle is not None:
        raise SignatureError(f"cannot tell: {source.obstacle}", model=source.name)
    norm, precision = "unknown", "unknown"
    if rank is None:
        size = measure_size(source)
        if size.rank is None:
            raise SignatureError(
                f"the rank of its logit image cannot be determined ({size.why})",
                model=source.name,
                advice="give the hidden size with --size, if you know it",
            )
        norm, precision = size.norm or norm, size.precision
        rank = size.rank + (norm == "LayerNorm with bias")
    count = int(np.ceil(rank * MARGIN)) + 16
    outputs, ids = collect_outputs(source, count, max(count, 2 * rank))
    values = clr(outputs)
    _, spectrum, rows = np.linalg.svd(values, full_matrices=False)
    outside = spectrum[rank:]
    # Outside the image there is only noise, spread over all remaining degrees of freedom.
    degrees = (values.shape[0] - rank) * (values.shape[1] - 1 - rank)
    noise = float(np.sqrt(np.square(outside).sum() / max(degrees, 1)))
    return Signature(
        rows[:rank].T.astype(np.float32),
        (spectrum[:rank] / np.sqrt(len(values))).astype(np.float32),
        ids,
        noise,
        source.name,
        norm,
        precision,
    )


def collect_outputs(source: Source, prompts: int, tokens: int) -> tuple[Matrix, NDArray[np.int64]]:
    """Outputs (prompts, tokens) and the token ids.

    Raises:
        BudgetError: the budget does not cover them.
        SignatureError: the vocabulary has too few usable tokens.
    """
    ids = source.choose_ids(tokens)
    requests_left, cost = source.requests_left, source.cost(prompts, len(ids))
    if requests_left is not None and cost > requests_left:
        raise BudgetError(
            f"{prompts} prompts on {len(ids)} tokens would take about {cost:,} requests, "
            f"{requests_left:,} are left",
            model=source.name,
            advice="allow more with --budget",
        )
    if len(ids) < min(tokens, prompts):
        raise SignatureError(f"only {len(ids)} of {tokens} tokens are usable", model=source.name)
    return source.outputs(make_prompts(prompts), ids), ids


def load_signature(path: Path) -> Signature:
    """Read a signature file.

    Raises:
        SignatureError: it is not a signature file, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            if texts.get("format") != FORMAT:
                raise SignatureError(NOT_A_SIGNATURE, file=path)
            basis, strength, ids = (file.get_tensor(n) for n in ("basis", "strength", "ids"))
        signature = Signature(
            basis.float().numpy(),
            strength.float().numpy(),
            ids.numpy().astype(np.int64),
            float(texts["noise"]),
            texts["source"],
            texts["norm"],
            texts["precision"],
        )
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise SignatureError(f"the signature cannot be read ({error})", file=path) from error
    is_valid = signature.basis.ndim == 2 and np.isfinite(signature.basis).all()
    if not is_valid or signature.basis.shape != (len(signature.ids), len(signature.strength)):
        raise SignatureError("the signature is damaged", file=path, advice="make it again")
    return signature
