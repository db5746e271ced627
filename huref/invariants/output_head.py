"""Rows of a model's output head, with the gain of the last norm folded in."""

from collections.abc import Sequence

import torch
from torch import Tensor

from huref.architecture.reader import ModelReader

HEAD_NAMES = ("lm_head.weight", "embed_out.weight", "output.weight")
NORM_NAMES = (
    "model.norm.weight", "model.final_layernorm.weight", "transformer.ln_f.weight",
    "gpt_neox.final_layer_norm.weight", "model.decoder.final_layer_norm.weight",
    "transformer.norm_f.weight", "norm.weight", "ln_f.weight",
)  # fmt: skip


def read_head(reader: ModelReader, ids: Sequence[int]) -> Tensor | None:
    """Rows of the output head for some token ids, (len(ids), d) float32.

    The logit of a token is the product of its row with the stream after `BlockRunner.normal`. Where
    there is no head of its own the embeddings are it. None where the head reads another width than
    the stream's.
    """
    checkpoint = reader.checkpoint
    names = set(checkpoint.names)
    head = next((n for n in sorted(names) if n.endswith(HEAD_NAMES)), None)
    rows = reader.embeddings(ids) if head is None else checkpoint.read_rows(head, ids).float()
    if reader.layout.embedding.factor or rows.ndim != 2 or not torch.isfinite(rows).all():
        return None
    gain = next((n for n in NORM_NAMES if n in names), None)
    if gain is None:
        return rows
    stored = checkpoint.read([gain])[gain].float()
    return rows * (stored + reader.layout.norms.offset) if len(stored) == rows.shape[1] else None
