"""A signature: an orthonormal basis of an endpoint's logit image, as a small file.

It is public in the sense that it tells no weights: the same subspace is spanned by the head times
any invertible matrix. Its terms are what the encoder draws an endpoint's dog from.
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
TERMS = (2, 3)  # blocks and terms of a record
_SEED = 20240314
_MOST_IDS = 4096  # ids that a picture depends on


@dataclass(frozen=True)
class Signature:
    """The logit image of a source.

    Attributes:
        basis: (s, r) float32 orthonormal columns, strongest direction first.
        strength: (r,) float32 root mean square of the outputs along each.
        ids: (s,) int64 token ids of the rows, in the order of `order_ids`.
        noise: standard deviation (nat) of one output value.
        source: what the user called the endpoint or model.
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
        """Everything that determines which signatures can be compared."""
        return {"format": FORMAT, "ids": "mixed order", "transform": "clr"}

    @property
    def digest(self) -> str:
        """Short digest of the recipe."""
        return hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()[:12]

    def save(self, path: Path) -> None:
        """Write the file; it appears whole or not at all."""
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
        """Six sketches of the image's projector, (2, 3, m, m) float32, for the encoder.

        The projector P depends on the image alone. Less its mean it becomes G_t P H_t for six
        pairs of fixed Gaussian matrices, whose columns are drawn from each token's id: Gaussian
        like the terms of weights, and as alike for two endpoints as their images are.
        """
        ids, basis = self.ids[:_MOST_IDS], self.basis[:_MOST_IDS].astype(np.float32)
        share = np.float32(np.square(basis).sum() / len(ids))
        draws = np.stack([_gaussians(int(token), m) for token in ids])  # (s, 12, m)
        sketches = []
        for t in range(TERMS[0] * TERMS[1]):
            left, right = draws[:, 2 * t], draws[:, 2 * t + 1]
            sketches.append((left.T @ basis) @ (basis.T @ right) - share * (left.T @ right))
        return torch.from_numpy(np.stack(sketches).reshape(*TERMS, m, m))


def _gaussians(token: int, m: int) -> NDArray[np.float32]:
    generator = np.random.Generator(np.random.PCG64([_SEED, token]))
    drawn: NDArray[np.float32] = generator.standard_normal((12, m), dtype=np.float32)
    return drawn


def make_signature(source: Source, rank: int | None = None) -> Signature:
    """Measure a source's logit image.

    Args:
        source: a model or an endpoint.
        rank: dimensions of the image, where they are known; None measures them first.

    Raises:
        SignatureError: the rank cannot be told.
        BudgetError: the budget does not cover the outputs needed.
    """
    norm, precision = "unknown", "unknown"
    if rank is None:
        size = measure_size(source)
        if size.rank is None:
            raise SignatureError(
                f"{source.name}: the size of its logit image cannot be told, so there is no "
                f"signature: {size.why}; if you know the hidden size, give it with --size"
            )
        norm, precision = size.norm or norm, size.precision
        rank = size.rank + (norm == "LayerNorm with bias")
    count = int(np.ceil(rank * MARGIN)) + 16
    outputs, ids = collect_outputs(source, count, max(count, 2 * rank))
    values = clr(outputs)
    _, spectrum, rows = np.linalg.svd(values, full_matrices=False)
    rest = spectrum[rank:]
    # What is left beyond the image is noise, spread over all the dimensions that remain.
    degrees = (values.shape[0] - rank) * (values.shape[1] - 1 - rank)
    noise = float(np.sqrt(np.square(rest).sum() / max(degrees, 1)))
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
    """Outputs (prompts, tokens) and their ids, if the budget allows them.

    Raises:
        BudgetError: it does not.
        SignatureError: the vocabulary has too few usable tokens.
    """
    ids = source.choose_ids(tokens)
    room, cost = source.room, source.cost(prompts, len(ids))
    if room is not None and cost > room:
        raise BudgetError(
            f"{source.name}: {prompts} prompts on {len(ids)} tokens would take about {cost:,} "
            f"requests, {room:,} are left; allow more with --budget"
        )
    if len(ids) < min(tokens, prompts):
        raise SignatureError(f"{source.name}: only {len(ids)} of {tokens} tokens are usable")
    return source.outputs(make_prompts(prompts), ids), ids


def load_signature(path: Path) -> Signature:
    """Read a signature file.

    Raises:
        SignatureError: it is not one, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            if texts.get("format") != FORMAT:
                raise SignatureError(f"{path}: not a signature made by `huref probe signature`")
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
        raise SignatureError(f"{path}: the signature cannot be read ({error})") from error
    whole = signature.basis.ndim == 2 and np.isfinite(signature.basis).all()
    if not whole or signature.basis.shape != (len(signature.ids), len(signature.strength)):
        raise SignatureError(f"{path}: the signature is damaged; make it again")
    return signature
