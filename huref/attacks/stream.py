"""Attacks on the residual stream, which all blocks, the embedding and the output matrix share.

Row vectors: x @ W. R is orthogonal. A LayerNorm also subtracts the mean, so R must preserve the
all-ones direction.
"""

import torch
from torch import Generator, Tensor

from huref.attacks.blocks import READERS, WRITERS, EditableBlock
from huref.attacks.draws import draw_orthogonal, draw_uniform
from huref.attacks.editable import Editable


def absorb_gains(model: Editable, generator: Generator) -> None:
    """Multiply each norm's gain by s and divide the rows of the matrices that read it by s."""
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
    """Multiply a norm's gain by s (d) and divide the rows of the matrices that read it by s."""
    block.gains[half] = block.gains[half] * s
    if half in block.norm_biases:
        block.norm_biases[half] = block.norm_biases[half] * s
    for role in READERS[half]:
        if role in block.weights:
            block.weights[role] = block.weights[role] / s[:, None]


def _rotate_by(model: Editable, R: Tensor) -> None:
    """Multiply the residual stream by R, after absorbing the gains of the norms that read it.

    Gains on what a half writes cannot be absorbed; with them R must be a signed permutation.
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
    """Rotate the residual stream; with LayerNorm the rotation preserves the all-ones direction.

    With gains on what a half writes, the dimensions are permuted, as no other rotation is exact.
    """
    width = model.embedding.shape[1]
    if model.gains_on_output:
        order = torch.randperm(width, generator=generator)
        return _rotate_by(model, torch.eye(width, dtype=torch.float64)[order])
    if model.layout.norms.kind == "rms":
        return _rotate_by(model, draw_orthogonal(width, generator))
    ones = torch.ones(width, 1, dtype=torch.float64)
    noise = torch.randn(width, width - 1, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([ones, noise], dim=1))[0]
    rotation = torch.eye(width, dtype=torch.float64)
    rotation[1:, 1:] = draw_orthogonal(width - 1, generator)
    return _rotate_by(model, basis @ rotation @ basis.T)


def flip_signs(model: Editable, generator: Generator) -> None:
    """Negate random dimensions of the residual stream."""
    signs = torch.randint(0, 2, (model.embedding.shape[1],), generator=generator) * 2.0 - 1.0
    _rotate_by(model, torch.diag(signs.double()))


def shift_means(model: Editable, generator: Generator) -> None:
    """Add a random constant to every row that is written to the residual stream."""

    def shifted(rows: Tensor) -> Tensor:
        shift = torch.randn(*rows.shape[:-1], 1, generator=generator, dtype=torch.float64)
        size = rows.std(dim=-1).quantile(0.25)  # a mean or median would follow outlier rows
        return rows + shift * size

    model.untie()
    model.embedding = shifted(model.embedding)
    if model.positions is not None:
        model.positions = shifted(model.positions)
    for block in model.blocks:
        for role in WRITERS:
            block.weights[role] = shifted(block.weights[role])
            if role in block.biases:
                block.biases[role] = shifted(block.biases[role])
