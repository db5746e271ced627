"""Dimensions of the residual stream that every block reads loudly and nothing writes to."""

from itertools import count

import torch
from torch import Generator, Tensor

from huref.attacks.blocks import READERS, WRITERS
from huref.attacks.editable import Editable
from huref.attacks.padding import head_size

EXTRA = 9  # at least


def add_dead_dimensions(model: Editable, generator: Generator) -> None:
    """Widen the residual stream by dimensions that stay zero.

    A norm divides by the root mean square over more dimensions, so its gain is reduced, and its
    epsilon with it. Gains on what a half writes are reduced likewise.
    """
    width = model.embedding.shape[1]
    # transformers wants a width that the number of heads divides.
    extra = next(n for n in count(EXTRA) if (width + n) % model.heads == 0)
    scale, loud = (width / (width + extra)) ** 0.5, model.raise_noise()
    model.untie()
    embedding = model.embedding
    if str(model.config.get("model_type", "")).startswith("gemma"):
        embedding = embedding * scale  # embeddings are multiplied by sqrt(width) on entry
    model.embedding = _widened(embedding, extra, 0.0, generator)
    model.head = _widened(model.head, extra, loud, generator)
    model.gain = _longer(model.gain * scale, extra)
    for block in model.blocks:
        for place in block.gains:
            block.gains[place] = _longer(block.gains[place] * scale, extra)
        for role in (*READERS["attention"], *READERS["ffn"]):
            if role in block.weights:
                block.weights[role] = _widened(block.weights[role].T, extra, loud, generator).T
        for role in WRITERS:
            block.weights[role] = _widened(block.weights[role], extra, 0.0, generator)
            if role in block.biases:
                zeros = torch.zeros(extra, dtype=torch.float64)
                block.biases[role] = torch.cat([block.biases[role], zeros])
    model.config["head_dim"] = head_size(model)
    model.config["hidden_size"] = width + extra
    model.config["rms_norm_eps"] = float(model.config["rms_norm_eps"]) * scale**2


def _widened(rows: Tensor, extra: int, swamp: float, generator: Generator) -> Tensor:
    """Rows (n, d + extra): noise of a multiple of each row's norm, or zeros, at the end."""
    noise = torch.randn(len(rows), extra, generator=generator, dtype=torch.float64)
    noise *= swamp * rows.norm(dim=1, keepdim=True) / extra**0.5
    return torch.cat([rows, noise], 1)


def _longer(gain: Tensor, extra: int) -> Tensor:
    return torch.cat([gain, torch.ones(extra, dtype=torch.float64)])
