"""Models that compute what they computed, with parts of another model in them.

They frame the other model: a test that looks for its parts and not for what they do finds it.
"""

import copy
from typing import Any

import torch
from torch import Generator, Tensor

from huref.attacks.blocks import READERS, WRITERS, EditableBlock
from huref.attacks.depth import insert_block
from huref.attacks.editable import Editable
from huref.attacks.padding import set_units
from huref.errors import AttackError

COUNT = 3  # blocks of the other model
SILENT = 1e-3  # what they write, in units of what they wrote


def graft_blocks(model: Editable, generator: Generator, other: Editable) -> None:
    """Put the other model's first blocks in front, at a thousandth of their output."""
    require_same(model, other, "block shapes", _shapes(model), _shapes(other))
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
    require_same(model, other, "widths", width_of(model), width_of(other))
    require_same(model, other, "numbers of blocks", len(model.blocks), len(other.blocks))
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


def _gain(block: EditableBlock, place: str) -> Tensor | float:
    gain = block.gains.get(place)  # missing where norms act on what a half writes
    return 1.0 if gain is None else gain[:, None]


def width_of(model: Editable) -> int:
    """Width of the residual stream."""
    return model.embedding.shape[1]


def _shapes(model: Editable) -> dict[str, Any]:
    block = model.blocks[0]
    parts = {role: tuple(weight.shape) for role, weight in block.weights.items()}
    return parts | {"heads": model.heads, "kv": block.kv_heads, "layout": model.layout.name}


def require_same(model: Editable, other: Editable, what: str, mine: Any, theirs: Any) -> None:
    """Raise AttackError where a figure of two models differs."""
    if mine != theirs:
        raise AttackError(
            f"its {what} differ from those of {model.model}", model=other.model,
            advice="choose another model with --other",
        )  # fmt: skip
