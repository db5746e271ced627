"""Models that compute what they computed, with parts of another model in them.

They frame the other model: a test that looks for its parts and not for what they do finds it.
"""

import copy
from typing import Any

import torch
from torch import Generator, Tensor

from huref.attacks.blocks import READERS, WRITERS, EditableBlock
from huref.attacks.depth import insert_block
from huref.attacks.disguised_vocabulary import shared_ids
from huref.attacks.editable import Editable
from huref.attacks.padding import set_heads, set_units
from huref.errors import AttackError

COUNT = 3  # blocks of the other model
SILENT = 1e-3  # what they write, in units of what they wrote
FIFTH = 0.2  # the other model's embeddings beside one's own


def graft_blocks(model: Editable, generator: Generator, other: Editable) -> None:
    """Put the other model's first blocks in front, at a thousandth of their output."""
    _require_same(model, other, "block shapes", _shapes(model), _shapes(other))
    for block in reversed(other.blocks[:COUNT]):
        silent = copy.deepcopy(block)
        for role in WRITERS:
            silent.weights[role] = silent.weights[role] * SILENT
            if role in silent.biases:
                silent.biases[role] = silent.biases[role] * SILENT
        for place in silent.gains:
            if place.endswith("_out"):
                silent.gains[place] = silent.gains[place] * SILENT
        insert_block(model, 0, silent, 0)


def add_foreign_units(model: Editable, generator: Generator, other: Editable) -> None:
    """Add the other model's hidden units, block by block, at a thousandth of their output."""
    _require_same(model, other, "widths", _width(model), _width(other))
    _require_same(model, other, "numbers of blocks", len(model.blocks), len(other.blocks))
    for block, theirs in zip(model.blocks, other.blocks, strict=True):
        for role in READERS["ffn"]:
            if role in block.weights:
                rows = theirs.weights[role] * _gain(theirs, "ffn") / _gain(block, "ffn")
                block.weights[role] = torch.cat([block.weights[role], rows], 1)
            if role in block.biases:
                block.biases[role] = torch.cat([block.biases[role], theirs.biases[role]])
        down = theirs.weights["down"] * SILENT
        block.weights["down"] = torch.cat([block.weights["down"], down])
    set_units(model)


def add_parasite(model: Editable, generator: Generator, other: Editable) -> None:
    """Let the other model run in dimensions of its own, at a fifth of its size.

    Embeddings, heads and units of both stand side by side. Norms are shared, so the copy computes
    nearly what it computed; nothing that the other part computes reaches the output.
    """
    count = len(model.blocks)
    _require_same(model, other, "numbers of blocks", count, len(other.blocks))
    sizes = [(m.blocks[0].weights["q"].shape[1] // m.heads, m.heads // m.blocks[0].kv_heads)
             for m in (model, other)]  # fmt: skip
    _require_same(model, other, "heads", *sizes)
    width, extra = _width(model), _width(other)
    scale = (width / (width + extra)) ** 0.5
    ids = shared_ids(model.tokenizer, other.tokenizer)
    if len(ids) < len(model.embedding) // 2:
        raise AttackError("the two vocabularies have too little in common", model=other.model)
    # Sizes in the stream are compared in units of each model's embeddings.
    size = float(model.embedding.square().mean().sqrt() / other.embedding.square().mean().sqrt())
    share = FIFTH * size
    rows = torch.zeros(len(model.embedding), extra, dtype=torch.float64)
    rows[list(ids)] = other.embedding[list(ids.values())] * share
    model.untie()
    model.embedding = torch.cat([model.embedding, rows], 1)
    zeros = torch.zeros(len(model.head), extra, dtype=torch.float64)
    model.head = torch.cat([model.head, zeros], 1)
    model.gain = torch.cat([model.gain * scale, torch.ones(extra, dtype=torch.float64)])
    for block, theirs in zip(model.blocks, other.blocks, strict=True):
        _join(block, theirs, scale, share)
    model.config["head_dim"] = sizes[0][0]
    model.config["hidden_size"] = width + extra
    model.config["rms_norm_eps"] = float(model.config["rms_norm_eps"]) * scale**2
    set_heads(model)
    set_units(model)


def _join(block: EditableBlock, theirs: EditableBlock, scale: float, share: float) -> None:
    """Set another block beside a block, in dimensions of its own that hold `share` of its values.

    The common norm divides both by the size of the first, so the gains of the second part undo
    `share`.
    """
    for role in (*READERS["attention"], *READERS["ffn"]):
        if role in block.weights:
            block.weights[role] = _block_diagonal(block.weights[role], theirs.weights[role])
    for role in WRITERS:
        block.weights[role] = _block_diagonal(block.weights[role], theirs.weights[role] * share)
    for place in ("attention", "ffn"):
        gains = (block.gains[place] * scale, theirs.gains[place] * scale / FIFTH)
        block.gains[place] = torch.cat(gains)
    block.kv_heads += theirs.kv_heads


def _gain(block: EditableBlock, place: str) -> Tensor | float:
    gain = block.gains.get(place)  # missing where norms act on what a half writes
    return 1.0 if gain is None else gain[:, None]


def _width(model: Editable) -> int:
    return model.embedding.shape[1]


def _shapes(model: Editable) -> dict[str, Any]:
    block = model.blocks[0]
    parts = {role: tuple(weight.shape) for role, weight in block.weights.items()}
    return parts | {"heads": model.heads, "kv": block.kv_heads, "layout": model.layout.name}


def _require_same(model: Editable, other: Editable, what: str, mine: Any, theirs: Any) -> None:
    if mine != theirs:
        raise AttackError(
            f"its {what} differ from those of {model.model}", model=other.model,
            advice="choose another model with --other",
        )  # fmt: skip


def _block_diagonal(first: Tensor, second: Tensor) -> Tensor:
    """Two matrices in the corners of one, zeros elsewhere."""
    (a, b), (c, d) = first.shape, second.shape
    joined = first.new_zeros(a + c, b + d)
    joined[:a, :b], joined[a:, b:] = first, second
    return joined
