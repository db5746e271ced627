"""Output head and final norm of an open model, read from its weights, and the space they span."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from huref.errors import UnsupportedModelError
from huref.loader.checkpoint import Checkpoint, open_checkpoint

Matrix = NDArray[np.float64]

HEADS = ("lm_head", "embed_out", "output", "model.lm_head", "language_model.lm_head")
EMBEDDINGS = (
    "model.embed_tokens",
    "embed_tokens",
    "transformer.wte",
    "wte",
    "gpt_neox.embed_in",
    "model.decoder.embed_tokens",
    "decoder.embed_tokens",
    "transformer.word_embeddings",
    "word_embeddings",
    "model.tok_embeddings",
    "language_model.model.embed_tokens",
    "model.language_model.embed_tokens",
)
NORMS = (
    "model.norm",
    "norm",
    "transformer.ln_f",
    "ln_f",
    "gpt_neox.final_layer_norm",
    "model.decoder.final_layer_norm",
    "decoder.final_layer_norm",
    "model.final_layernorm",
    "transformer.norm_f",
    "language_model.model.norm",
    "model.language_model.norm",
)
LAYER_NORM_TYPES = ("olmo", "cohere", "cohere2", "mpt", "dbrx")  # LayerNorms without a bias
GAIN_PLUS_ONE = ("gemma", "gemma2", "gemma3", "gemma3_text", "recurrent_gemma")


@dataclass(frozen=True)
class Head:
    """The map from a normalised hidden state to logits.

    Attributes:
        model: name of the model.
        weight: (v, d) float64 with the final norm's gain folded in; for a LayerNorm the mean
            direction is projected out.
        offset: (v,) float64 from the biases of norm and head; None without either.
        norm: "RMSNorm", "LayerNorm" or "LayerNorm with bias".
        softcap: whether a soft cap follows, so that logits span more than d dimensions.
    """

    model: str
    weight: Matrix
    offset: Matrix | None
    norm: str
    softcap: bool

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return len(self.weight)

    def image(self, ids: NDArray[np.int64]) -> Matrix:
        """Orthonormal basis (len(ids), r) of the centred logits that the head can produce."""
        columns = self.weight[ids]
        if self.offset is not None:
            columns = np.column_stack([columns, self.offset[ids]])
        return orthonormal(columns - columns.mean(axis=0))


def orthonormal(columns: Matrix) -> Matrix:
    """Orthonormal basis (s, r) of the columns of a matrix (s, n), s >= n; r is its rank."""
    scale = np.linalg.norm(columns, axis=0)
    scaled = columns / np.where(scale > 0, scale, 1.0)
    left, spectrum, _ = np.linalg.svd(scaled, full_matrices=False)
    basis: Matrix = left[:, spectrum > spectrum[0] * 1e-9]
    return basis


def read_head(model: str) -> Head:
    """Read an open model's head and final norm, and no other weights.

    Raises:
        UnsupportedModelError: neither a head nor an embedding has a known name.
    """
    checkpoint = open_checkpoint(model)
    names = set(checkpoint.names)
    head = _first(HEADS, names) or _first(EMBEDDINGS, names)
    if head is None:
        raise UnsupportedModelError(
            "none of its tensors is an output head or an embedding of a known name: "
            f"{', '.join(HEADS + EMBEDDINGS)}",
            model=model,
        )
    norm = _first(NORMS, names)
    parts = [f"{head}.weight", f"{head}.bias", f"{norm}.weight", f"{norm}.bias"]
    tensors = checkpoint.read([name for name in parts if name in names])
    values = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    weight = values[parts[0]]
    kind = str(checkpoint.config.get("model_type"))
    gain = values.get(parts[2])
    folded = weight if gain is None else weight * (gain + (1.0 if kind in GAIN_PLUS_ONE else 0.0))
    norm_bias, head_bias = values.get(parts[3]), values.get(parts[1])
    norm_type = "LayerNorm with bias" if norm_bias is not None else "RMSNorm"
    if norm_bias is None and kind in LAYER_NORM_TYPES:
        norm_type = "LayerNorm"
    if norm_type != "RMSNorm":  # normalised states sum to zero
        folded = folded - folded.mean(axis=1, keepdims=True)
    offset = None if norm_bias is None else weight @ norm_bias
    if head_bias is not None:
        offset = head_bias if offset is None else offset + head_bias
    return Head(model, folded, offset, norm_type, _is_softcapped(checkpoint))


def _first(candidates: tuple[str, ...], names: set[str]) -> str | None:
    return next((name for name in candidates if f"{name}.weight" in names), None)


def _is_softcapped(checkpoint: Checkpoint) -> bool:
    return bool(checkpoint.config.get("final_logit_softcapping"))
