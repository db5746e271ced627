"""Canonical attention and feed-forward networks from the tensors that a layout names.

Everything here is arithmetic on tensors that were already read, in float32; `spec` is a part of a
layout whose names are those of one block.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from huref.architecture.block import Attention, FeatureNorm, FeedForward, LatentAttention
from huref.architecture.folding import Folding
from huref.architecture.heads import HeadCounts, reorder_o, split_heads, ungated
from huref.architecture.layout import HeadNorms, Heads, Latent, Network
from huref.architecture.match import config_ints, look_up
from huref.errors import CheckpointError

Tensors = Mapping[str, Tensor]


def as_linear(weight: Tensor, stored: str) -> Tensor:
    """A matrix, or a stack of them, as (..., in, out)."""
    return weight.transpose(-1, -2) if stored == "out_in" else weight


def _matrix(spec: Heads, role: str, tensors: Tensors, model: str) -> Tensor:
    weight = tensors[role]
    if weight.dim() != 2:
        name = getattr(spec, role)[0]
        raise CheckpointError(f"{model}: '{name}' is not a matrix: {list(weight.shape)}")
    return as_linear(weight, spec.stored)


def assemble_attention(
    spec: Heads,
    tensors: Tensors,
    folding: Folding,
    config: Mapping[str, Any],
    index: int,
    model: str,
) -> Attention | LatentAttention:
    """Attention of one block.

    Args:
        spec: the layout's part with the block's names.
        tensors: by role, dotted for the nested parts.
        folding: the block's norms.
        config: the language model's config.
        index: of the block, for config values that differ between blocks.
        model: for messages.

    Raises:
        CheckpointError: a tensor's shape contradicts the config.
    """
    counts = HeadCounts(spec, config, index, model)
    heads = counts.heads
    if spec.latent is not None and "latent.kv_a" in tensors:
        return _latent(spec.latent, spec, tensors, folding, config, model, heads)
    if "qkv" in tensors:
        fused = _matrix(spec, "qkv", tensors, model)
        kv_heads = counts.kv_heads(spec.qkv[0], fused.shape, len(fused), heads, 2)
        q, k, v = split_heads(spec, fused, heads, kv_heads)
        k_name = v_name = spec.qkv[0]
    else:
        q = _matrix(spec, "q", tensors, model)
        width = len(q)
        queries = heads * (2 if spec.q_gated else 1)
        counts.check(spec.q[0], q.shape, (width, queries * counts.head_dim(width, q.shape[1])))
        q = ungated(q, heads) if spec.q_gated else q
        if "kv" in tensors:
            fused = _matrix(spec, "kv", tensors, model)
            kv_heads = counts.kv_heads(spec.kv[0], fused.shape, width, 0, 2)
            k, v = fused.chunk(2, dim=1)
            k_name = v_name = spec.kv[0]
        else:
            k = _matrix(spec, "k", tensors, model)
            v = _matrix(spec, "v", tensors, model) if "v" in tensors else k
            k_name, v_name = spec.k[0], spec.v[0] if spec.v else spec.k[0]
            kv_heads = counts.kv_heads(k_name, k.shape, width, 0, 1, q.shape[1] // heads)
    o = _matrix(spec, "o", tensors, model)
    value_dim = v.shape[1] // kv_heads
    counts.check(v_name, v.shape, (len(q), kv_heads * value_dim))
    counts.check(spec.o[0], o.shape, (heads * value_dim, len(q)))
    norms = {}
    for role, matrix, count in (("q", q, heads), ("k", k, kv_heads), ("v", v, kv_heads)):
        norms[role] = _feature_norm(spec.norms, role, tensors, matrix.shape[1], config, index)
        _check_gain(spec.norms, role, norms[role], matrix.shape[1], count, model)
    o = folding.writing("attention", o)
    return Attention(
        q=folding.reading("attention", q),
        k=folding.reading("attention", k),
        v=folding.reading("attention", v),
        o=reorder_o(o, heads) if spec.heads_of_o == "halves" else o,
        heads=heads,
        kv_heads=kv_heads,
        q_norm=norms["q"],
        k_norm=norms["k"],
        v_norm=norms["v"],
    )


def _feature_norm(
    spec: HeadNorms | None,
    role: str,
    tensors: Tensors,
    width: int,
    config: Mapping[str, Any],
    index: int,
) -> FeatureNorm | None:
    """The norm on q, k or v, if the block has one."""
    if spec is None:
        return None
    gain = tensors.get(f"norms.{role}")
    if gain is not None:
        over = "head" if gain.dim() == 2 or len(gain) < width else "width"
        return FeatureNorm(spec.kind, over, gain + spec.offset)
    if role in spec.unlearned and (not spec.flag or look_up(config, spec.flag, index)):
        return FeatureNorm(spec.kind, "head", None)
    return None


def _check_gain(
    spec: HeadNorms | None,
    role: str,
    norm: FeatureNorm | None,
    width: int,
    heads: int,
    model: str,
) -> None:
    """Raise CheckpointError when a gain fits neither a head's features nor all of them."""
    if norm is None or norm.gain is None:
        return
    sizes = [(width,), (width // heads,), (heads, width // heads)]
    if tuple(norm.gain.shape) not in sizes:
        name = getattr(spec, role)[0]
        raise CheckpointError(
            f"{model}: '{name}' has shape {list(norm.gain.shape)}, but {heads} heads have "
            f"{width} features"
        )


def _latent(
    spec: Latent,
    outer: Heads,
    tensors: Tensors,
    folding: Folding,
    config: Mapping[str, Any],
    model: str,
    heads: int,
) -> LatentAttention:
    named = {
        role.removeprefix("latent."): tensor.T if tensor.dim() == 2 else tensor
        for role, tensor in tensors.items()
        if role.startswith("latent.")
    }
    rope = config_ints(config, spec.rope, model)[0]
    nope = config_ints(config, spec.nope, model)[0]
    q_b = named["q_b"] if "q_b" in named else tensors["q"].T
    kv_a, kv_b, o = named["kv_a"], named["kv_b"], tensors["o"].T
    rank = len(kv_b)
    value_dim = kv_b.shape[1] // heads - nope
    for what, matrix, expected in (
        ("q_b", q_b, (len(q_b), heads * (nope + rope))),
        ("kv_a", kv_a, (o.shape[1], rank + rope)),
        ("kv_b", kv_b, (rank, heads * (nope + value_dim))),
        ("o", o, (heads * value_dim, o.shape[1])),
    ):
        if tuple(matrix.shape) != expected:
            name = (getattr(spec, what, ()) or getattr(outer, what, ()) or outer.q)[0]
            raise CheckpointError(
                f"{model}: '{name}' has shape {list(matrix.shape)} (in, out), but config.json "
                f"({heads} heads of {nope} + {rope}) asks for {list(expected)}"
            )
    per_head = kv_b.reshape(rank, heads, -1)

    def norm(role: str) -> FeatureNorm | None:
        gain = named.get(role)
        return None if gain is None else FeatureNorm("rms", "width", gain)

    return LatentAttention(
        q_a=folding.reading("attention", named["q_a"]) if "q_b" in named else None,
        q_norm=norm("q_norm"),
        q_b=q_b if "q_b" in named else folding.reading("attention", q_b),
        kv_a=folding.reading("attention", kv_a[:, :rank]),
        kv_norm=norm("kv_norm"),
        k_rope=folding.reading("attention", kv_a[:, rank:]),
        k_b=per_head[:, :, :nope].flatten(1),
        v_b=per_head[:, :, nope:].flatten(1),
        o=folding.writing("attention", o),
        heads=heads,
    )


def assemble_network(spec: Network, tensors: Tensors, folding: Folding, model: str) -> FeedForward:
    """One feed-forward network.

    Raises:
        CheckpointError: its matrices do not fit together.
    """
    down = as_linear(tensors["down"], spec.stored if spec.down_stored == "as_stored" else "in_out")
    gate: Tensor | None
    if "gate_up" in tensors:
        gate, up = _split(spec, as_linear(tensors["gate_up"], spec.stored))
    else:
        up = as_linear(tensors["up"], spec.stored)
        gate = as_linear(tensors["gate"], spec.stored) if "gate" in tensors else None
    hidden = tuple(up.shape[::-1])
    if tuple(down.shape) != hidden or (gate is not None and gate.shape != up.shape):
        sizes = {role: list(tensor.shape) for role, tensor in tensors.items()}
        raise CheckpointError(
            f"{model}: '{spec.down[0]}' and its neighbours do not fit together: {sizes}"
        )
    return FeedForward(
        up=folding.reading("ffn", up),
        gate=None if gate is None else folding.reading("ffn", gate),
        down=folding.writing("ffn", down),
    )


def _split(spec: Network, fused: Tensor) -> tuple[Tensor, Tensor]:
    """Gate and up (in, hidden) from a fused matrix (in, 2 hidden)."""
    if spec.split == "interleaved":
        return fused[:, 0::2], fused[:, 1::2]
    gate, up = torch.chunk(fused, 2, dim=1)
    return gate, up
