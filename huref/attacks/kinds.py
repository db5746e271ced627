"""The attacks: each changes a model in memory and leaves its function alone.

Row vectors: x @ W. R is orthogonal, C invertible. A LayerNorm also subtracts the mean, so that R
must leave the all-ones direction where it is.
"""

import copy
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from huref.attacks.blocks import READERS, WRITERS, EditableBlock
from huref.attacks.editable import Editable
from huref.attacks.upcycling import find_mixture, upcycle
from huref.attacks.vocabulary import extend_vocabulary, permute_vocabulary

Attack = Callable[[Editable, Generator], None]


def _uniform(size: int, generator: Generator, low: float = 0.5, high: float = 2.0) -> Tensor:
    return low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)


def _orthogonal(size: int, generator: Generator) -> Tensor:
    noise = torch.randn(size, size, generator=generator, dtype=torch.float64)
    q: Tensor = torch.linalg.qr(noise)[0]
    return q


def permute_ffn(model: Editable, generator: Generator) -> None:
    """Hidden units of every feed-forward network in another order."""
    for block in model.blocks:
        order = torch.randperm(len(block.weights["down"]), generator=generator)
        block.weights["down"] = block.weights["down"][order]
        for role in READERS["ffn"]:
            if role in block.weights:
                block.weights[role] = block.weights[role][:, order]
            if role in block.biases:
                block.biases[role] = block.biases[role][order]


def scale_ffn(model: Editable, generator: Generator) -> None:
    """A hidden unit's up times s, its down divided by s."""
    for block in model.blocks:
        s = _uniform(len(block.weights["down"]), generator)
        block.weights["up"] = block.weights["up"] * s
        block.weights["down"] = block.weights["down"] / s[:, None]
        if "up" in block.biases:
            block.biases["up"] = block.biases["up"] * s


def _key_map(head_dim: int, rotary: int, generator: Generator) -> Tensor:
    """C for the queries of a head: in each rotary plane a rotation and a scale, else any map."""
    C = torch.zeros(head_dim, head_dim, dtype=torch.float64)
    half = rotary // 2
    angle = _uniform(half, generator, 0.0, 6.28)
    scale = _uniform(half, generator)
    first, second = torch.arange(half), torch.arange(half) + half
    C[first, first] = C[second, second] = scale * angle.cos()
    C[first, second], C[second, first] = scale * angle.sin(), -scale * angle.sin()
    free = head_dim - rotary
    if free:
        C[rotary:, rotary:] = _orthogonal(free, generator) * _uniform(free, generator)
    return C


def _per_head(matrix: Tensor, maps: Tensor) -> Tensor:
    """A matrix (n, heads * dim) with each head's columns mapped, maps (heads, dim, dim)."""
    by_head = matrix.reshape(len(matrix), len(maps), -1)
    return torch.einsum("nhd,hde->nhe", by_head, maps).reshape(len(matrix), -1)


def map_heads(model: Editable, generator: Generator) -> None:
    """Queries by C and keys by C^-T, values by D and o by D^-1, for each key-value head.

    Where queries and keys are normed, values and o alone.
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
                _orthogonal(value_dim, generator) * _uniform(value_dim, generator)
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


def permute_heads(model: Editable, generator: Generator) -> None:
    """Key-value heads in another order, and the query heads inside each group."""
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
        for name, tensor in block.others.items():  # a norm over all heads together moves along
            role = "q" if "q_norm" in name else "k"
            if "norm" in name and tensor.numel() == block.weights[role].shape[1]:
                block.others[name] = _reorder(tensor[None], orders[role])[0]


def _reorder(matrix: Tensor, order: Tensor) -> Tensor:
    return matrix.reshape(len(matrix), len(order), -1)[:, order].flatten(1)


def absorb_gains(model: Editable, generator: Generator) -> None:
    """Each norm's gain times s, the rows of the matrices that it feeds divided by s."""
    for block in model.blocks:
        for half in READERS:
            if half in block.gains:
                _rescale_norm(block, half, _uniform(len(block.gains[half]), generator))
    model.untie()
    s = _uniform(len(model.gain), generator)
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
        return _turn_stream(model, _orthogonal(width, generator))
    ones = torch.ones(width, 1, dtype=torch.float64)
    noise = torch.randn(width, width - 1, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([ones, noise], dim=1))[0]
    turned = torch.eye(width, dtype=torch.float64)
    turned[1:, 1:] = _orthogonal(width - 1, generator)
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


def _insert(model: Editable, position: int, source: int, silent: bool) -> None:
    block = copy.deepcopy(model.blocks[source])
    if silent:
        for role in WRITERS:
            block.weights[role] = torch.zeros_like(block.weights[role])
            if role in block.biases:
                block.biases[role] = torch.zeros_like(block.biases[role])
    model.blocks.insert(position, block)
    for key in model.layout.layers:
        if key in model.config:
            model.config[key] = len(model.blocks)
    if isinstance(kinds := model.config.get("layer_types"), list):
        kinds.insert(position, kinds[source])


def insert_noops(model: Editable, generator: Generator) -> None:
    """Layers that write nothing: one first, one last and one in between."""
    middle = int(torch.randint(1, len(model.blocks) + 1, (1,), generator=generator))
    for position in (len(model.blocks), middle, 0):
        _insert(model, position, min(position, len(model.blocks) - 1), silent=True)


def duplicate_layer(model: Editable, generator: Generator) -> None:
    """The last layer but one, twice. Changes the function a little."""
    source = max(len(model.blocks) - 2, 0)
    _insert(model, source + 1, source, silent=False)


KINDS: dict[str, Attack] = {
    "ffn-permutation": permute_ffn,
    "ffn-scaling": scale_ffn,
    "head-maps": map_heads,
    "head-permutation": permute_heads,
    "gain-absorption": absorb_gains,
    "rotation": rotate_stream,
    "sign-flips": flip_signs,
    "mean-shift": shift_means,
    "vocabulary-permutation": permute_vocabulary,
    "vocabulary-extension": extend_vocabulary,
    "no-op-layers": insert_noops,
    "layer-duplication": duplicate_layer,
    "upcycling": upcycle,
}
EXACT = tuple(kind for kind in KINDS if kind != "layer-duplication")


def applies(kind: str, model: Editable) -> str:
    """Why a kind would change what a model computes; "" where it does not."""
    gated = "gate" in model.blocks[0].weights
    rms = model.layout.norms.kind == "rms"
    if kind == "ffn-scaling" and not gated:
        return "its activation is not linear in what it reads"
    if kind == "sign-flips" and not rms:
        return "LayerNorm subtracts the mean, which signs do not keep"
    if kind == "mean-shift" and rms:
        return "RMSNorm does not subtract the mean"
    if kind == "upcycling" and (find_mixture(model) is None or model.blocks[0].biases):
        return "transformers has no mixture of experts with such blocks"
    return ""
