"""One block of a model under attack, taken out of its checkpoint and put back."""

import fnmatch
from dataclasses import dataclass, field

import torch
from torch import Tensor

from huref.architecture.assemble import as_linear
from huref.architecture.heads import HeadCounts, join_heads, split_heads
from huref.architecture.layout import Layout
from huref.architecture.reader import ModelReader
from huref.architecture.resolve import resolve_block
from huref.errors import AttackError

ATTENTION = ("q", "k", "v", "o")
FFN = ("up", "gate", "down")
READERS = {"attention": ("q", "k", "v"), "ffn": ("up", "gate")}
WRITERS = ("o", "down")


# What may lie in a block although attacks leave it alone: norms on queries and keys, buffers.
HARMLESS = ("*q_norm.*", "*k_norm.*", "*inv_freq", "*attn.bias", "*attention.bias", "*masked_bias")
GAINS = ("attention", "ffn", "attention_out", "ffn_out")


@dataclass
class EditableBlock:
    """One block: matrices (in, out), biases (out), and the gains and biases of its norms.

    `names` says under which name, after the block's, a role is stored; fused ones are under "qkv"
    and "gate_up". `others` are tensors that no attack but a reordering of heads touches: norms on
    queries and keys, and buffers.
    """

    weights: dict[str, Tensor]
    biases: dict[str, Tensor]
    gains: dict[str, Tensor]
    norm_biases: dict[str, Tensor]
    kv_heads: int
    names: dict[str, str] = field(default_factory=dict)
    others: dict[str, Tensor] = field(default_factory=dict)


def bias_of(name: str) -> str:
    """The name of a weight's bias."""
    return name.removesuffix("weight") + "bias"


def take_block(reader: ModelReader, index: int, tensors: dict[str, Tensor]) -> EditableBlock:
    """Take a block's tensors out of a mapping of all.

    Raises:
        AttackError: it is a mixture of experts, or holds a tensor that no attack knows.
    """
    layout = reader.layout
    start = reader.prefix + layout.block.format(i=index)
    block = resolve_block(layout, reader.prefix, index, frozenset(tensors), reader.block_count)
    if block.ffn is None or not block.ffn.down or (block.experts and block.experts.down):
        raise AttackError(f"{reader.checkpoint.model}: block {index} is not dense")
    weights: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    stored_as: dict[str, str] = {}

    def take(role: str, names: tuple[str, ...], stored: str) -> None:
        if names:
            stored_as[role] = names[0][len(start) :]
            weights[role] = as_linear(tensors.pop(names[0]), stored)
            if (bias := tensors.pop(bias_of(names[0]), None)) is not None:
                biases[role] = bias

    for role in (*ATTENTION, "qkv"):
        take(role, getattr(block.attention, role), block.attention.stored)
    for role in (*FFN, "gate_up"):
        take(role, getattr(block.ffn, role), block.ffn.stored)
    if "gate_up" in weights:
        weights["gate"], weights["up"] = weights.pop("gate_up").chunk(2, dim=1)
    counts = HeadCounts(layout.attention, reader.config, index, reader.checkpoint.model)
    if "qkv" in weights:
        fused = weights.pop("qkv")
        kv_heads = counts.kv_heads("qkv", fused.shape, len(fused), counts.heads, 2)
        parts = split_heads(layout.attention, fused, counts.heads, kv_heads)
        weights |= dict(zip("qkv", parts, strict=True))
        if (bias := biases.pop("qkv", None)) is not None:
            rows = split_heads(layout.attention, bias[None], counts.heads, kv_heads)
            biases |= dict(zip("qkv", (row[0] for row in rows), strict=True))
    else:
        width, head_dim = len(weights["q"]), weights["q"].shape[1] // counts.heads
        kv_heads = counts.kv_heads("k", weights["k"].shape, width, 0, 1, head_dim)
    for place in GAINS:
        take_norm = getattr(block.norms, place)
        if take_norm:
            stored_as[place] = take_norm[0][len(start) :]
    gains = {
        p: tensors.pop(start + stored_as[p]) + layout.norms.offset for p in GAINS if p in stored_as
    }
    norm_biases = {
        place: tensors.pop(name)
        for place in gains
        if (name := bias_of(start + stored_as[place])) in tensors
    }
    others = {
        name[len(start) :]: tensors.pop(name) for name in list(tensors) if name.startswith(start)
    }
    for name in others:
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in HARMLESS):
            raise AttackError(
                f"{reader.checkpoint.model}: no attack knows what its tensor '{start}{name}' is for"
            )
    return EditableBlock(weights, biases, gains, norm_biases, kv_heads, stored_as, others)


def store_block(
    layout: Layout, prefix: str, index: int, block: EditableBlock, heads: int
) -> dict[str, Tensor]:
    """A block's tensors under the names, and in the shapes, that they came with."""
    start = prefix + layout.block.format(i=index)
    weights, biases = dict(block.weights), dict(block.biases)
    attention, ffn = layout.attention, layout.ffn
    assert ffn is not None
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
        stored[name] = as_linear(weight, (ffn if role in (*FFN, "gate_up") else attention).stored)
        if role in biases:
            stored[bias_of(name)] = biases[role]
    for place, gain in block.gains.items():
        name = start + block.names[place]
        stored[name] = gain - layout.norms.offset
        if place in block.norm_biases:
            stored[bias_of(name)] = block.norm_biases[place]
    return stored
