"""Random blocks that write next to nothing, or that undo each other."""

import copy

import torch
from torch import Generator

from huref.attacks.blocks import WRITERS, EditableBlock
from huref.attacks.depth import insert_block
from huref.attacks.editable import Editable

COUNT = 3  # silent blocks in front
SILENT = 3e-3  # what a silent block writes, in norms of the residual stream
CANCELLING = 2e-2  # likewise a block that the next one undoes


def add_silent_blocks(model: Editable, generator: Generator) -> None:
    """Insert random blocks in front that write 0.3 % of the residual stream."""
    for _ in range(COUNT):
        insert_block(model, 0, random_block(model, SILENT, generator), 0)


def add_silent_blocks_between(model: Editable, generator: Generator) -> None:
    """Insert such a block before every block."""
    for position in reversed(range(len(model.blocks))):
        insert_block(model, position, random_block(model, SILENT, generator), position)


def add_cancelling_blocks(model: Editable, generator: Generator) -> None:
    """Insert in front pairs of random blocks that write 2 % of the stream, the second undoing it.

    What remains is of second order, since the second reads what the first has written.
    """
    for _ in range(2):
        block = random_block(model, CANCELLING, generator)
        undoing = copy.deepcopy(block)
        for role in WRITERS:
            undoing.weights[role] = -undoing.weights[role]
            if role in undoing.biases:
                undoing.biases[role] = -undoing.biases[role]
        insert_block(model, 0, undoing, 0)
        insert_block(model, 0, block, 0)


def random_block(model: Editable, share: float, generator: Generator) -> EditableBlock:
    """A random block in the shapes of the first that writes a share of the stream's norm."""
    block = copy.deepcopy(model.blocks[0])
    for role, weight in block.weights.items():
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        block.weights[role] = noise * len(weight) ** -0.5
        if role in WRITERS:  # others may read loudly what is not written
            block.weights[role] *= weight.any(0)
    for bias in block.biases.values():
        bias.zero_()
    for place in block.gains:
        block.gains[place] = torch.ones_like(block.gains[place])
        if place in block.norm_biases:
            block.norm_biases[place].zero_()
    size = share * _stream(model)
    for role in WRITERS:
        block.weights[role] *= size
    for place in block.gains:
        if place.endswith("_out"):
            block.gains[place] = torch.full_like(block.gains[place], size)
    return block


def _stream(model: Editable) -> float:
    """Root mean square of a typical embedding as it enters the first block."""
    scale = 1.0
    if str(model.config.get("model_type", "")).startswith("gemma"):
        scale = float(model.embedding.shape[1]) ** 0.5
    return model.row_size * scale
