"""Canonical attention and feed-forward networks from the tensors that a layout names.

Everything here is arithmetic on tensors that were already read, in float32; `spec` is a part of a
layout whose names are those of one block.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from huref.architecture.assemble_latent import assemble_latent, latent_norm
from huref.architecture.block import Attention, FeatureNorm, FeedForward, LatentAttention
from huref.architecture.config_values import look_up
from huref.architecture.folding import Folding
from huref.architecture.heads import HeadCounts, join_o, reorder_o, split_heads, ungated
from huref.architecture.layout import HeadNorms, Heads, Network
from huref.errors import CheckpointError

Tensors = Mapping[str, Tensor]


def as_linear(weight: Tensor, stored: str) -> Tensor:
    """A matrix, or a stack of them, as (..., in, out)."""
    return weight.transpose(-1, -2) if stored == "out_in" else weight


def _matrix(spec: Heads, role: str, tensors: Tensors, model: str) -> Tensor:
    """A matrix (in, out); of a stack of experts their mean."""
    weight = tensors[role]
    stacked = spec.mixture and role in ("q", "o")
    if weight.dim() != (3 if stacked else 2):
        name = getattr(spec, role)[0]
        raise CheckpointError(
            f"{model}: '{name}' is not a matrix: {list(weight.shape)}; config and weights do not "
            "belong together"
        )
    matrix = as_linear(weight.mean(dim=0) if stacked else weight, spec.stored)
    adapter = tensors.get(f"{role}_adapter")
    return matrix if adapter is None else matrix + as_linear(adapter, spec.stored)


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
    if "latent.kv_a" in tensors:
        return assemble_latent(spec, tensors, folding, config, index, model)
    q_a = tensors["latent.q_a"].T if "latent.q_a" in tensors else None
    if "qkv" in tensors:
        fused = _matrix(spec, "qkv", tensors, model)
        fixed = 2 * heads if spec.split == "gate_first" else heads
        kv_heads = counts.kv_heads(spec.qkv[0], fused.shape, len(fused), fixed, 2)
        q, k, v = split_heads(spec, fused, heads, kv_heads)
        k_name = v_name = spec.qkv[0]
    else:
        q = _matrix(spec, "q", tensors, model) if q_a is None else tensors["latent.q_b"].T
        queries = heads * (2 if spec.q_gated else 1)
        q_name = (spec.q or ("q",))[0]
        counts.check(q_name, q.shape, (len(q), queries * counts.head_dim(len(q), q.shape[1])))
        q = ungated(q, heads) if spec.q_gated else q
        width = len(q) if q_a is None else len(q_a)
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
    if "o_a" in tensors:
        first = tensors["o_a"]
        first = first.reshape(heads * value_dim // first.shape[1], -1, first.shape[1])
        o = join_o(first.mT, o)
    width = len(k) // 2 if spec.beside_embedding else len(k)
    counts.check(v_name, v.shape, (len(k), kv_heads * value_dim))
    counts.check(spec.o[0], o.shape, (heads * value_dim, width))
    norms = {}
    for role, matrix, count in (("q", q, heads), ("k", k, kv_heads), ("v", v, kv_heads)):
        norms[role] = _feature_norm(spec.norms, role, tensors, matrix.shape[1], config, index)
        _check_gain(spec.norms, role, norms[role], matrix.shape[1], count, model)
    o = folding.writing("attention", o)
    q = folding.reading("attention", q) if q_a is None else q
    k, v = folding.features("k", k), folding.features("v", v)
    if spec.beside_embedding:
        q, k, v = (matrix[:width] + matrix[width:] for matrix in (q, k, v))
    return Attention(
        q=q,
        k=k,
        v=v,
        o=reorder_o(o, heads) if spec.heads_of_o == "halves" else o,
        heads=heads,
        kv_heads=kv_heads,
        q_norm=norms["q"],
        k_norm=norms["k"],
        v_norm=norms["v"],
        q_a=None if q_a is None else folding.reading("attention", q_a),
        q_a_norm=None if q_a is None else latent_norm(spec, "q_norm", tensors, 1.0),
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
            f"{width} features; config and weights do not belong together"
        )


def assemble_network(
    spec: Network, tensors: Tensors, folding: Folding, model: str, half: str = "ffn"
) -> FeedForward:
    """One feed-forward network; a stack of them is one network of all their hidden units.

    Args:
        spec: the layout's part with the block's names.
        tensors: by role.
        folding: the block's norms.
        model: for messages.
        half: "ffn", or "experts" and "shared" for the two kinds that a mixture adds up.

    Raises:
        CheckpointError: its matrices do not fit together.
    """
    tensors = {role: _side_by_side(spec, role, tensor) for role, tensor in tensors.items()}
    down = as_linear(tensors["down"], _stored(spec, "down"))
    gate: Tensor | None
    if "gate_up" in tensors:
        fused = tensors["gate_up"]
        if "gate_up_adapter" in tensors:
            fused = fused + tensors["gate_up_adapter"]
        gate, up = _split(spec, as_linear(fused, spec.stored))
    else:
        up = as_linear(tensors["up"], spec.stored)
        gate = as_linear(tensors["gate"], spec.stored) if "gate" in tensors else None
    hidden = tuple(up.shape[::-1])
    if tuple(down.shape) != hidden or (gate is not None and gate.shape != up.shape):
        sizes = {role: list(tensor.shape) for role, tensor in tensors.items()}
        raise CheckpointError(
            f"{model}: '{spec.down[0]}' and its neighbours do not fit together: {sizes}"
        )
    reads = "experts" if half == "experts" else "ffn"
    return FeedForward(
        up=folding.reading(reads, up),
        gate=None if gate is None else folding.reading(reads, gate),
        down=folding.writing(half, down),
    )


def _stored(spec: Network, role: str) -> str:
    return "in_out" if role == "down" and spec.down_stored == "in_out" else spec.stored


def _side_by_side(spec: Network, role: str, tensor: Tensor) -> Tensor:
    """A stack of matrices as one, their hidden units one after the other."""
    if tensor.dim() != 3:
        return tensor
    hidden_last = (role == "down") == (_stored(spec, role) == "out_in")
    parts = [tensor]
    if role == "gate_up" and spec.split == "contiguous":  # all gates before all ups
        parts = list(tensor.chunk(2, dim=2 if hidden_last else 1))
    return torch.cat([matrix for part in parts for matrix in part], dim=1 if hidden_last else 0)


def _split(spec: Network, fused: Tensor) -> tuple[Tensor, Tensor]:
    """Gate and up (in, hidden) from a fused matrix (in, 2 hidden)."""
    if spec.split == "interleaved":
        return fused[:, 0::2], fused[:, 1::2]
    gate, up = torch.chunk(fused, 2, dim=1)
    return gate, up
