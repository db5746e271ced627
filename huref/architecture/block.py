"""The canonical block: one transformer layer, whatever its checkpoint calls its tensors.

Matrices are (in, out), as in x @ W, in float32. Norm gains are folded into the matrices they
feed; biases and positions are left out.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Attention:
    """Self-attention with grouped queries.

    Shapes: q (d, heads * head_dim), k (d, kv_heads * head_dim), v (d, kv_heads * v_head_dim),
    o (heads * v_head_dim, d). Query head h reads key-value head h // (heads / kv_heads).
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    heads: int
    kv_heads: int


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward network: up (d, hidden), gate (d, hidden) or None, down (hidden, d)."""

    up: Tensor
    gate: Tensor | None
    down: Tensor


@dataclass(frozen=True)
class Block:
    """One layer of the residual stream."""

    index: int
    attention: Attention
    ffn: FeedForward
