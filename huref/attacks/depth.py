"""Attacks on the number of blocks: they are halved or duplicated, or no-op blocks are inserted."""

import copy

import torch
from torch import Generator

from huref.attacks.blocks import READERS, WRITERS, EditableBlock
from huref.attacks.editable import Editable
from huref.attacks.padding import weight_noise


def insert_block(model: Editable, position: int, block: EditableBlock, like: int) -> None:
    """Insert a block; its kind of attention is that of the block `like`."""
    model.blocks.insert(position, block)
    for key in model.layout.layers:
        if key in model.config:
            model.config[key] = len(model.blocks)
    if isinstance(kinds := model.config.get("layer_types"), list):
        kinds.insert(position, kinds[like])


def _insert(model: Editable, position: int, source: int, silent: bool) -> None:
    """Insert a copy of the block `source`; a silent copy writes zeros."""
    block = copy.deepcopy(model.blocks[source])
    if silent:
        for role in WRITERS:
            block.weights[role] = torch.zeros_like(block.weights[role])
            if role in block.biases:
                block.biases[role] = torch.zeros_like(block.biases[role])
    insert_block(model, position, block, source)


def insert_noops(model: Editable, generator: Generator) -> None:
    """Insert blocks that write nothing: the first, the last and one in between."""
    middle = int(torch.randint(1, len(model.blocks) + 1, (1,), generator=generator))
    for position in (len(model.blocks), middle, 0):
        _insert(model, position, min(position, len(model.blocks) - 1), silent=True)


def duplicate_layer(model: Editable, generator: Generator) -> None:
    """Duplicate the last block but one. Changes the function a little."""
    source = max(len(model.blocks) - 2, 0)
    _insert(model, source + 1, source, silent=False)


def halve_blocks(model: Editable, generator: Generator) -> None:
    """Store each block as two: its attention, then its network; random other halves write zero."""
    for position in reversed(range(len(model.blocks))):
        second = copy.deepcopy(model.blocks[position])
        for half, writer in ((model.blocks[position], "down"), (second, "o")):
            for role in READERS["ffn" if writer == "down" else "attention"]:
                if role in half.weights:
                    half.weights[role] = weight_noise(half, role, generator)
            half.weights[writer] = torch.zeros_like(half.weights[writer])
            if writer in half.biases:
                half.biases[writer] = torch.zeros_like(half.biases[writer])
        insert_block(model, position + 1, second, position)
