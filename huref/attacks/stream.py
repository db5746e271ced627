"""Attacks on the residual stream, which every block and both ends of a model read or write.

Row vectors: x @ W. R is orthogonal. A LayerNorm also subtracts the mean, so that R must leave the
all-ones direction where it is.
"""

import torch
from torch import Generator, Tensor

from huref.attacks.blocks import READERS, WRITERS, EditableBlock
from huref.attacks.draws import draw_orthogonal, draw_uniform
from huref.attacks.editable import Editable


def absorb_gains(model: Editable, generator: Generator) -> None:
    """Each norm's gain times s, the rows of the matrices that it feeds divided by s."""
    for block in model.blocks:
        for half in READERS:
            if half in block.gains:
                _rescale_norm(block, half, draw_uniform(len(block.gains[half]), generator))
    model.untie()
    s = draw_uniform(len(model.gain), generator)
    model.gain, model.head = model.gain * s, model.head / s
    if model.norm_bias is not None:
        model.norm_bias = model.norm_bias * s


def _rescale_norm(block: EditableBlock, half: str, s: Tensor) -> None:
    block.gains[half] = block.gains[half] * s
    if half in block.norm_biases:
        block.norm_biases[half] = block.norm_biases[half] * s
    for role in READERS[half]:
        if role in block.weights:
            block.weights[role] = block.weights[role] / s[:, None]


def _turn_stream(model: Editable, R: Tensor) -> None:
    """The residual stream times R, once the gains of what reads it are ones.

    Gains on what a half writes cannot be moved elsewhere; they allow an R that permutes and flips.
    """
    for block in model.blocks:
        for half, roles in READERS.items():
            if f"{half}_out" in block.gains:
                block.gains[f"{half}_out"] = block.gains[f"{half}_out"] @ R.abs()
            if half in block.gains:
                _rescale_norm(block, half, 1 / block.gains[half])
            if half in block.norm_biases:
                block.norm_biases[half] = block.norm_biases[half] @ R
            for role in roles:
                if role in block.weights:
                    block.weights[role] = R.T @ block.weights[role]
        for role in WRITERS:
            block.weights[role] = block.weights[role] @ R
            if role in block.biases:
                block.biases[role] = block.biases[role] @ R
    model.untie()
    model.head = (model.head * model.gain) @ R
    if model.norm_bias is not None:
        model.norm_bias = (model.norm_bias / model.gain) @ R
    model.gain = torch.ones_like(model.gain)
    model.embedding = model.embedding @ R
    if model.positions is not None:
        model.positions = model.positions @ R


def rotate_stream(model: Editable, generator: Generator) -> None:
    """The residual stream rotated; for LayerNorm by a rotation that keeps the ones direction.

    Where gains stand before the stream, its dimensions are permuted, as no other rotation is exact.
    """
    width = model.embedding.shape[1]
    if model.gains_on_output:
        order = torch.randperm(width, generator=generator)
        return _turn_stream(model, torch.eye(width, dtype=torch.float64)[order])
    if model.layout.norms.kind == "rms":
        return _turn_stream(model, draw_orthogonal(width, generator))
    ones = torch.ones(width, 1, dtype=torch.float64)
    noise = torch.randn(width, width - 1, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([ones, noise], dim=1))[0]
    turned = torch.eye(width, dtype=torch.float64)
    turned[1:, 1:] = draw_orthogonal(width - 1, generator)
    return _turn_stream(model, basis @ turned @ basis.T)


def flip_signs(model: Editable, generator: Generator) -> None:
    """Random dimensions of the residual stream negated."""
    signs = torch.randint(0, 2, (model.embedding.shape[1],), generator=generator) * 2.0 - 1.0
    _turn_stream(model, torch.diag(signs.double()))


def shift_means(model: Editable, generator: Generator) -> None:
    """Every row that is written to the residual stream plus a constant of its own."""

    def shifted(rows: Tensor) -> Tensor:
        shift = torch.randn(*rows.shape[:-1], 1, generator=generator, dtype=torch.float64)
        return rows + shift * rows.std()

    model.untie()
    model.embedding = shifted(model.embedding)
    if model.positions is not None:
        model.positions = shifted(model.positions)
    for block in model.blocks:
        for role in WRITERS:
            block.weights[role] = shifted(block.weights[role])
            if role in block.biases:
                block.biases[role] = shifted(block.biases[role])
