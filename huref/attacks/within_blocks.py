"""Attacks within a block: on its hidden units and on its heads.

Row vectors: x @ W. A map is multiplied into one matrix and its inverse into the next.
"""

import torch
from torch import Generator, Tensor

from huref.attacks.blocks import READERS
from huref.attacks.draws import draw_orthogonal, draw_uniform
from huref.attacks.editable import Editable


def permute_ffn(model: Editable, generator: Generator) -> None:
    """Permute the hidden units of every feed-forward network."""
    for block in model.blocks:
        order = torch.randperm(len(block.weights["down"]), generator=generator)
        block.weights["down"] = block.weights["down"][order]
        for role in READERS["ffn"]:
            if role in block.weights:
                block.weights[role] = block.weights[role][:, order]
            if role in block.biases:
                block.biases[role] = block.biases[role][order]


def scale_ffn(model: Editable, generator: Generator) -> None:
    """Multiply each hidden unit's up by s and divide its down by s."""
    for block in model.blocks:
        s = draw_uniform(len(block.weights["down"]), generator)
        block.weights["up"] = block.weights["up"] * s
        block.weights["down"] = block.weights["down"] / s[:, None]
        if "up" in block.biases:
            block.biases["up"] = block.biases["up"] * s


def _key_map(head_dim: int, rotary: int, generator: Generator) -> Tensor:
    """A map C of a head's queries: a scaled rotation in each rotary plane, any map elsewhere."""
    C = torch.zeros(head_dim, head_dim, dtype=torch.float64)
    half = rotary // 2
    angle = draw_uniform(half, generator, 0.0, 6.28)
    scale = draw_uniform(half, generator)
    first, second = torch.arange(half), torch.arange(half) + half
    C[first, first] = C[second, second] = scale * angle.cos()
    C[first, second], C[second, first] = scale * angle.sin(), -scale * angle.sin()
    free = head_dim - rotary
    if free:
        C[rotary:, rotary:] = draw_orthogonal(free, generator) * draw_uniform(free, generator)
    return C


def _per_head(matrix: Tensor, maps: Tensor) -> Tensor:
    """A matrix (n, heads * dim) with each head's columns multiplied by its map (dim, dim)."""
    by_head = matrix.reshape(len(matrix), len(maps), -1)
    return torch.einsum("nhd,hde->nhe", by_head, maps).reshape(len(matrix), -1)


def map_heads(model: Editable, generator: Generator) -> None:
    """Multiply queries by C, keys by C^-T, values by D and o by D^-1, per key-value head.

    Where queries and keys are normalised, only values and o are changed.
    """
    for block in model.blocks:
        weights, per_group = block.weights, model.heads // block.kv_heads
        head_dim = weights["q"].shape[1] // model.heads
        value_dim = weights["v"].shape[1] // block.kv_heads
        C = torch.stack(
            [_key_map(head_dim, model.rotary, generator) for _ in range(block.kv_heads)]
        )
        D = torch.stack(
            [
                draw_orthogonal(value_dim, generator) * draw_uniform(value_dim, generator)
                for _ in range(block.kv_heads)
            ]
        )
        inverse = torch.linalg.inv(D).repeat_interleave(per_group, dim=0)
        maps = {"v": D}
        if not model.norms_inside_attention:
            maps |= {
                "q": C.repeat_interleave(per_group, dim=0),
                "k": torch.linalg.inv(C).transpose(1, 2),
            }
        for role, M in maps.items():
            weights[role] = _per_head(weights[role], M)
            if role in block.biases:
                block.biases[role] = _per_head(block.biases[role][None], M)[0]
        weights["o"] = _per_head(weights["o"].T, inverse.transpose(1, 2)).T


def move_value_biases(model: Editable, generator: Generator) -> None:
    """Add noise to the biases of values and take what it writes out of the output's bias.

    A token's weights over earlier tokens sum to one, so a head writes its biases whatever it
    attends to.
    """
    noise = model.raise_noise()
    for block in model.blocks:
        weights, per_group = block.weights, model.heads // block.kv_heads
        moved = torch.randn(weights["v"].shape[1], generator=generator, dtype=torch.float64)
        moved = moved * noise * weights["v"].norm(dim=0).median()
        by_head = moved.reshape(block.kv_heads, -1).repeat_interleave(per_group, dim=0)
        block.biases["v"] = block.biases["v"] + moved
        block.biases["o"] = block.biases["o"] - by_head.flatten() @ weights["o"]


def permute_heads(model: Editable, generator: Generator) -> None:
    """Permute the key-value heads, and the query heads inside each group."""
    for block in model.blocks:
        groups, per_group = block.kv_heads, model.heads // block.kv_heads
        outer = torch.randperm(groups, generator=generator)
        inner = [torch.randperm(per_group, generator=generator) for _ in range(groups)]
        queries = torch.cat([group * per_group + inner[group] for group in outer.tolist()])
        orders = {"q": queries, "k": outer, "v": outer}
        for role, order in orders.items():
            block.weights[role] = _reorder(block.weights[role], order)
            if role in block.biases:
                block.biases[role] = _reorder(block.biases[role][None], order)[0]
        block.weights["o"] = _reorder(block.weights["o"].T, queries).T
        for name, tensor in block.others.items():  # a norm over all heads is permuted too
            role = "q" if "q_norm" in name else "k"
            if "norm" in name and tensor.numel() == block.weights[role].shape[1]:
                block.others[name] = _reorder(tensor[None], orders[role])[0]


def _reorder(matrix: Tensor, order: Tensor) -> Tensor:
    """A matrix (n, heads * dim) with its heads in another order."""
    return matrix.reshape(len(matrix), len(order), -1)[:, order].flatten(1)
