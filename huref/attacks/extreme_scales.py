"""Factors of up to 2^80 between neighbouring matrices; squares of weights then overflow."""

import torch
from torch import Generator, Tensor

from huref.attacks.blocks import EditableBlock
from huref.attacks.editable import Editable

EXTREME = 80  # binary orders of magnitude


def scale_extremely(model: Editable, generator: Generator) -> None:
    """Move factors between matrices that share them.

    Between up and down of a unit (without a gate only under ReLU), between values and output, and
    between queries and keys of a rotary plane, or between the gains of their norms.
    """
    gated = "gate" in model.blocks[0].weights
    for block in model.blocks:
        weights, per_group = block.weights, model.heads // block.kv_heads
        # Experts are made from the network on saving, with noise as large as its weights.
        if not model.rewrites and (gated or model.running.homogeneous):
            factor = _powers(len(weights["down"]), generator)
            _scale(block, "up", factor)
            weights["down"] = weights["down"] / factor[:, None]
        factor = _powers(weights["v"].shape[1], generator)
        _scale(block, "v", factor)
        weights["o"] = weights["o"] / _for_queries(factor, block, per_group)[:, None]
        if model.norms_inside_attention:
            _scale_gains(model, block, generator)
        else:
            size = weights["k"].shape[1] // block.kv_heads
            planes = [_by_plane(size, model.rotary, generator) for _ in range(block.kv_heads)]
            factor = torch.cat(planes)
            _scale(block, "k", factor)
            _scale(block, "q", 1 / _for_queries(factor, block, per_group))


def _scale_gains(model: Editable, block: EditableBlock, generator: Generator) -> None:
    """Move factors between the gains of queries and keys, one for a plane of all heads."""
    norms = {n: t for n, t in block.others.items() if "q_norm" in n or "k_norm" in n}
    sizes = {tensor.numel() for tensor in norms.values()}
    # A gain that is stored as its distance from 1 cannot be small.
    if len(sizes) != 1 or model.layout.norms.offset:
        return
    size = block.weights["k"].shape[1] // block.kv_heads
    factor = _by_plane(size, model.rotary, generator).repeat(sizes.pop() // size)
    for name, tensor in norms.items():
        block.others[name] = tensor * factor if "q_norm" in name else tensor / factor


def _powers(count: int, generator: Generator) -> Tensor:
    exponents = torch.randint(-EXTREME, EXTREME + 1, (count,), generator=generator)
    powers: Tensor = 2.0 ** exponents.double()
    return powers


def _by_plane(size: int, rotary: int, generator: Generator) -> Tensor:
    """Factors of a head's features; the two of a rotary plane have the same, (size,)."""
    factor = _powers(size, generator)
    factor[rotary // 2 : rotary] = factor[: rotary // 2]
    return factor


def _for_queries(factor: Tensor, block: EditableBlock, per_group: int) -> Tensor:
    """Factors of key-value heads, for the heads of the queries that use them."""
    return factor.view(block.kv_heads, -1).repeat_interleave(per_group, dim=0).flatten()


def _scale(block: EditableBlock, role: str, factor: Tensor) -> None:
    block.weights[role] = block.weights[role] * factor
    if role in block.biases:
        block.biases[role] = block.biases[role] * factor
