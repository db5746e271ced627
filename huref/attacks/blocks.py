"""One block of a model under attack: taken out of its checkpoint and written back."""

import fnmatch
from dataclasses import dataclass, field

import torch
from torch import Tensor

from huref.architecture.assemble import as_linear
from huref.architecture.heads import join_heads, split_heads
from huref.architecture.layout import Layout
from huref.architecture.reader import ModelReader
from huref.architecture.resolved import ResolvedBlock, ResolvedNetwork, Roles
from huref.errors import AttackError

ATTENTION = ("q", "k", "v", "o")
FFN = ("up", "gate", "down")
READERS = {"attention": ("q", "k", "v"), "ffn": ("up", "gate")}
WRITERS = ("o", "down")
GAINS = ("attention", "ffn", "attention_out", "ffn_out")
# Tensors that attacks leave unchanged: norms on queries and keys, buffers.
UNCHANGED = ("*q_norm.*", "*k_norm.*", "*inv_freq", "*attn.bias", "*attention.bias", "*masked_bias")


@dataclass
class EditableBlock:
    """One block: matrices (in, out), biases (out), and the gains and biases of its norms.

    Attributes:
        weights, biases: by role, as "q" or "down"; fused tensors are split.
        gains, norm_biases: by place, as "attention_out".
        kv_heads: number of key-value heads.
        names: the stored name by role or place, without the block's start; fused tensors are
            under "qkv" and "gate_up".
        others: norms on queries and keys, and buffers, by name without the block's start. Only a
            reordering of heads changes them.
        spreads: root mean square of each of the source's matrices, by role. Noise is measured by
            it, since that of earlier attacks would raise the spread, and rounding with it.
    """

    weights: dict[str, Tensor]
    biases: dict[str, Tensor]
    gains: dict[str, Tensor]
    norm_biases: dict[str, Tensor]
    kv_heads: int
    names: dict[str, str] = field(default_factory=dict)
    others: dict[str, Tensor] = field(default_factory=dict)
    spreads: dict[str, float] = field(default_factory=dict)


def bias_of(name: str) -> str:
    """The name of a weight's bias."""
    return name.removesuffix("weight") + "bias"


def take_block(reader: ModelReader, index: int, tensors: dict[str, Tensor]) -> EditableBlock:
    """Remove a block's tensors from the mapping of all tensors.

    Raises:
        AttackError: the block is a mixture of experts, or holds a tensor that no attack supports.
    """
    block = reader.resolve(index)
    attention, network = block.attention, block.ffn
    if attention is None or not isinstance(network, ResolvedNetwork):
        raise AttackError(f"block {index} is not dense", model=block.model)
    weights: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    names: dict[str, str] = {}

    def take(roles: Roles, wanted: tuple[str, ...], orientation: str) -> None:
        for role in wanted:
            if role in roles:
                name = roles[role].name
                names[role] = name.removeprefix(block.start)
                weights[role] = as_linear(tensors.pop(name), orientation)
                if (bias := tensors.pop(bias_of(name), None)) is not None:
                    biases[role] = bias

    take(attention.tensors, (*ATTENTION, "qkv"), attention.stored)
    take(network.tensors, (*FFN, "gate_up"), network.stored)
    if "gate_up" in weights:
        weights["gate"], weights["up"] = weights.pop("gate_up").chunk(2, dim=1)
    heads, kv_heads = attention.heads, attention.kv_heads
    if "qkv" in weights:
        parts = split_heads(attention, weights.pop("qkv"), heads, kv_heads)
        weights |= dict(zip("qkv", parts, strict=True))
    if "qkv" in biases:
        rows = split_heads(attention, biases.pop("qkv")[None], heads, kv_heads)
        biases |= dict(zip("qkv", (row[0] for row in rows), strict=True))
    gains: dict[str, Tensor] = {}
    norm_biases: dict[str, Tensor] = {}
    for place in GAINS:
        if place in block.norms.tensors:
            name = block.norms.tensors[place].name
            names[place] = name.removeprefix(block.start)
            gains[place] = tensors.pop(name) + block.norms.offset
            if (bias := tensors.pop(bias_of(name), None)) is not None:
                norm_biases[place] = bias
    others = _take_others(block, tensors)
    spreads = {role: float(weight.square().mean().sqrt()) for role, weight in weights.items()}
    return EditableBlock(weights, biases, gains, norm_biases, kv_heads, names, others, spreads)


def _take_others(block: ResolvedBlock, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the rest of a block's tensors. Raises AttackError for one that is not known."""
    names = [name for name in tensors if name.startswith(block.start)]
    others = {name.removeprefix(block.start): tensors.pop(name) for name in names}
    for name in others:
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in UNCHANGED):
            raise AttackError("no attack supports it", model=block.model, tensor=block.start + name)
    return others


def store_block(
    layout: Layout, prefix: str, index: int, block: EditableBlock, heads: int
) -> dict[str, Tensor]:
    """A block's tensors under their original names and in their original shapes."""
    start = prefix + layout.block.format(i=index)
    attention, network = layout.attention, layout.ffn
    assert network is not None
    weights, biases = dict(block.weights), dict(block.biases)
    if "qkv" in block.names:
        parts = [weights.pop(role) for role in "qkv"]
        weights["qkv"] = join_heads(attention, *parts, heads=heads, kv_heads=block.kv_heads)
        if "q" in biases:
            rows = [biases.pop(role)[None] for role in "qkv"]
            joined = join_heads(attention, *rows, heads=heads, kv_heads=block.kv_heads)
            biases["qkv"] = joined[0]
    if "gate_up" in block.names:
        weights["gate_up"] = torch.cat([weights.pop("gate"), weights.pop("up")], dim=1)
    stored = {start + name: tensor for name, tensor in block.others.items()}
    for role, weight in weights.items():
        name = start + block.names[role]
        part = network if role in (*FFN, "gate_up") else attention
        stored[name] = as_linear(weight, part.stored)
        if role in biases:
            stored[bias_of(name)] = biases[role]
    for place, gain in block.gains.items():
        name = start + block.names[place]
        stored[name] = gain - layout.norms.offset
        if place in block.norm_biases:
            stored[bias_of(name)] = block.norm_biases[place]
    return stored
