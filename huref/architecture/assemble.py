"""Canonical attention and feed-forward networks from the tensors of a resolved block.

Everything here is arithmetic in float32 on tensors that were already read and whose shapes were
checked when the block was resolved.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from huref.architecture.assemble_latent import assemble_latent, latent_norm
from huref.architecture.block import Attention, FeatureNorm, FeedForward, LatentAttention
from huref.architecture.folding import Folding
from huref.architecture.heads import drop_output_gate, join_o, reorder_o, split_heads
from huref.architecture.layout import NetworkForm
from huref.architecture.resolved import ResolvedAttention, ResolvedNetwork
from huref.errors import CheckpointError

Tensors = Mapping[str, Tensor]


def as_linear(weight: Tensor, stored: str) -> Tensor:
    """A matrix, or a stack of them, as (..., in, out)."""
    return weight.transpose(-1, -2) if stored == "out_in" else weight


def assemble_attention(
    attention: ResolvedAttention,
    tensors: Tensors,
    folding: Folding,
    biases: Tensors | None = None,
) -> Attention | LatentAttention:
    """Attention of one block.

    Args:
        attention: the block's attention.
        tensors: by role, as stored.
        folding: the block's norms.
        biases: by role, as stored.
    """
    if attention.latent is not None:
        return assemble_latent(attention, attention.latent, tensors, folding)
    q, k, v = _fused_qkv(attention, tensors) or _separate_qkv(attention, tensors)
    o = _output(attention, tensors, v.shape[1] // attention.kv_heads)
    norms = {
        role: _feature_norm(attention, role, tensors, matrix.shape[1])
        for role, matrix in (("q", q), ("k", k), ("v", v))
    }
    q_a = tensors["latent.q_a"].T if "latent.q_a" in tensors else None
    added = {}
    if not attention.beside_embedding:
        added = _biases(attention, biases or {}, folding, q, k, v, o.shape[1])
    q = folding.reading("attention", q) if q_a is None else q
    k, v = folding.features("k", k), folding.features("v", v)
    if attention.beside_embedding:
        width = len(k) // 2
        q, k, v = (matrix[:width] + matrix[width:] for matrix in (q, k, v))
    o = folding.writing("attention", o)
    return Attention(
        q=q,
        k=k,
        v=v,
        o=reorder_o(o, attention.heads) if attention.heads_of_o == "halves" else o,
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        q_norm=norms["q"],
        k_norm=norms["k"],
        v_norm=norms["v"],
        q_a=None if q_a is None else folding.reading("attention", q_a),
        q_a_norm=None if q_a is None else latent_norm("q_norm", tensors),
        biases=added,
    )


def _fitting(bias: Tensor | None, size: int) -> Tensor | None:
    """A bias, or None if it is not a vector of that size."""
    return bias if bias is not None and bias.shape == (size,) else None


def _biases(
    attention: ResolvedAttention,
    stored: Tensors,
    folding: Folding,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    width: int,
) -> dict[str, Tensor]:
    """The biases of q, k, v and o, from those stored and the matrices (in, out) as stored."""
    own: dict[str, Tensor | None] = {role: stored.get(role) for role in ("q", "k", "v", "o")}
    if "qkv" in stored:
        row = stored["qkv"][None]
        parts = split_heads(attention, row, attention.heads, attention.kv_heads)
        own |= {role: part[0] for role, part in zip("qkv", parts, strict=True)}
    for role, matrix in (("q", q), ("k", k), ("v", v)):
        bias = _fitting(own[role], matrix.shape[1])
        own[role] = folding.reading_bias("attention", matrix, bias)
    own["o"] = folding.out_bias("attention", _fitting(own["o"], width))
    return {role: bias for role, bias in own.items() if bias is not None}


def _matrix(attention: ResolvedAttention, role: str, tensors: Tensors) -> Tensor:
    """A matrix (in, out) with its adapter added; the mean matrix of stacked experts."""
    stacked = attention.mixture and role in ("q", "o")
    weight = tensors[role].mean(dim=0) if stacked else tensors[role]
    matrix = as_linear(weight, attention.stored)
    adapter = tensors.get(f"{role}_adapter")
    return matrix if adapter is None else matrix + as_linear(adapter, attention.stored)


def _fused_qkv(
    attention: ResolvedAttention, tensors: Tensors
) -> tuple[Tensor, Tensor, Tensor] | None:
    """q, k and v (in, out) from one tensor, if the block has it."""
    if "qkv" not in tensors:
        return None
    fused = _matrix(attention, "qkv", tensors)
    return split_heads(attention, fused, attention.heads, attention.kv_heads)


def _separate_qkv(attention: ResolvedAttention, tensors: Tensors) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v (in, out) from a tensor for q and one or two for k and v.

    Where queries have a latent, q is (rank, out). Values are the keys where v is not stored.
    """
    q = tensors["latent.q_b"].T if "latent.q_a" in tensors else _matrix(attention, "q", tensors)
    if attention.q_gated:
        q = drop_output_gate(q, attention.heads)
    if "kv" in tensors:
        k, v = _matrix(attention, "kv", tensors).chunk(2, dim=1)
        return q, k, v
    k = _matrix(attention, "k", tensors)
    return q, k, _matrix(attention, "v", tensors) if "v" in tensors else k


def _output(attention: ResolvedAttention, tensors: Tensors, value_dim: int) -> Tensor:
    """Return o (heads * value_dim, d), with its first factor multiplied in where it has one."""
    o = _matrix(attention, "o", tensors)
    if "o_a" not in tensors:
        return o
    first = tensors["o_a"]
    blocks = attention.heads * value_dim // first.shape[1]
    return join_o(first.reshape(blocks, -1, first.shape[1]).mT, o)


def _feature_norm(
    attention: ResolvedAttention, role: str, tensors: Tensors, width: int
) -> FeatureNorm | None:
    """The norm on q, k or v (..., width), if the block has one."""
    norms = attention.norms
    if norms is None:
        return None
    gain = tensors.get(f"norms.{role}")
    if gain is not None:
        over = "head" if gain.dim() == 2 or len(gain) < width else "width"
        return FeatureNorm(norms.kind, over, gain + norms.offset)
    return FeatureNorm(norms.kind, "head", None) if role in norms.unlearned else None


def assemble_network(
    network: ResolvedNetwork,
    tensors: dict[str, Tensor],
    folding: Folding,
    half: str = "ffn",
    biases: Tensors | None = None,
) -> FeedForward:
    """One feed-forward network; a stack of them becomes one network with all their hidden units.

    Args:
        network: the block's network, or one of its experts.
        tensors: by role, as stored; they are taken out, since a block of a 70B model has 2.8 GB.
        folding: the block's norms.
        half: "ffn", or "experts" or "shared" for the two kinds of network that a mixture sums.
        biases: by role, as stored.

    Raises:
        CheckpointError: its matrices do not fit together.
    """
    for role in list(tensors):
        tensors[role] = _side_by_side(network, role, tensors.pop(role))
    down = as_linear(tensors["down"], _stored(network, "down"))
    gate: Tensor | None
    if "gate_up" in tensors:
        if "gate_up_adapter" in tensors:
            tensors["gate_up"] = tensors["gate_up"] + tensors["gate_up_adapter"]
        gate, up = _split(network, as_linear(tensors["gate_up"], network.stored))
    else:
        up = as_linear(tensors["up"], network.stored)
        gate = as_linear(tensors["gate"], network.stored) if "gate" in tensors else None
    if down.shape != up.shape[::-1] or (gate is not None and gate.shape != up.shape):
        shapes = ", ".join(f"{role} {list(tensor.shape)}" for role, tensor in tensors.items())
        raise CheckpointError(
            f"the shapes of its feed-forward network do not fit together ({shapes})",
            tensor=network.tensors["down"].name,
            advice="config and weights do not belong together",
        )
    reads = "experts" if half == "experts" else "ffn"
    own: dict[str, Tensor | None] = dict(biases or {})
    if "gate_up" in own and own["gate_up"] is not None:
        own["gate"], own["up"] = (part[0] for part in _split(network, own["gate_up"][None]))
    added = {
        "up": folding.reading_bias(reads, up, own.get("up")),
        "gate": None if gate is None else folding.reading_bias(reads, gate, own.get("gate")),
        "down": folding.out_bias(half, _fitting(own.get("down"), down.shape[1])),
    }
    tensors.clear()  # so that each matrix leaves memory when its folded one is there
    up = folding.reading(reads, up)
    gate = None if gate is None else folding.reading(reads, gate)
    down = folding.writing(half, down)
    return FeedForward(up, gate, down, {role: b for role, b in added.items() if b is not None})


def _stored(form: NetworkForm, role: str) -> str:
    return "in_out" if role == "down" and form.down_stored == "in_out" else form.stored


def _side_by_side(form: NetworkForm, role: str, tensor: Tensor) -> Tensor:
    """A stack of matrices as one matrix, their hidden units one after the other."""
    if tensor.dim() != 3:
        return tensor
    hidden_last = (role == "down") == (_stored(form, role) == "out_in")
    parts = [tensor]
    if role == "gate_up" and form.split == "contiguous":  # all gates before all ups
        parts = list(tensor.chunk(2, dim=2 if hidden_last else 1))
    return torch.cat([matrix for part in parts for matrix in part], dim=1 if hidden_last else 0)


def _split(form: NetworkForm, fused: Tensor) -> tuple[Tensor, Tensor]:
    """Gate and up (in, hidden) from a fused matrix (in, 2 hidden)."""
    if form.split == "interleaved":
        return fused[:, 0::2], fused[:, 1::2]
    gate, up = torch.chunk(fused, 2, dim=1)
    return gate, up
