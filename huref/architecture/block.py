"""The canonical block: one transformer layer in the same form for all families.

Matrices are (in, out), as in x @ W, in float32. The gains of a block's norms are folded into the
neighbouring matrices. Terms leave biases and positions out; the forward pass of a text uses them
(`huref.invariants.forward`). Norms of queries and keys and latent projections are applied to
token-space features, as the module does (docs/maths.md, Canonical blocks).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureNorm:
    """A norm on the features of queries, keys, values or a latent.

    Attributes:
        kind: "rms" or "layernorm".
        over: "head" normalises each head's features separately, "width" all of them together.
        gain: (head_dim,), (heads, head_dim) or (width,), or None.

    The module's epsilon is left out. It is negligible for the module's own inputs, but not for
    whitened rows, which are smaller.
    """

    kind: str
    over: str
    gain: Tensor | None

    def __call__(self, features: Tensor) -> Tensor:
        """Normalise features (m, heads, head_dim); rows of zeros stay zero."""
        shape = features.shape
        if self.over == "width":
            features = features.flatten(1)
        if self.kind == "layernorm":
            features = features - features.mean(dim=-1, keepdim=True)
        tiny = torch.finfo(features.dtype).tiny
        features = features * (features.square().mean(dim=-1, keepdim=True) + tiny).rsqrt()
        if self.gain is not None:
            features = features * self.gain
        return features.reshape(shape)


class SelfAttention(Protocol):
    """What the terms compute from attention, on token rows E (m, d)."""

    @property
    def heads(self) -> int:
        """Number of query heads."""

    @property
    def o(self) -> Tensor:
        """(heads * v_head_dim, d)."""

    def features(self, E: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (m, heads, n) and keys (m, heads or kv_heads, n)."""

    def values(self, E: Tensor) -> Tensor:
        """Values, (m, heads or kv_heads, v_head_dim)."""

    def scores(self, E: Tensor) -> Tensor:
        """Sum over heads of queries times keys, (m, m)."""

    def write(self, E: Tensor) -> Tensor:
        """The output of attention over a single token, (m, d)."""


@dataclass(frozen=True)
class Attention:
    """Self-attention with grouped queries.

    Shapes: q (d, heads * head_dim), k (d, kv_heads * head_dim), v (d, kv_heads * v_head_dim),
    o (heads * v_head_dim, d). Query head h uses key-value head h // (heads / kv_heads). Where
    queries are read from a latent, q_a is (d, r) and q (r, heads * head_dim). `biases` has those
    of "q", "k", "v" and "o" that the module adds, what its norms add included.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    heads: int
    kv_heads: int
    q_norm: FeatureNorm | None = None
    k_norm: FeatureNorm | None = None
    v_norm: FeatureNorm | None = None
    q_a: Tensor | None = None
    q_a_norm: FeatureNorm | None = None
    biases: Mapping[str, Tensor] = field(default_factory=dict)

    def features(self, E: Tensor, biased: bool = False) -> tuple[Tensor, Tensor]:
        """Queries (m, heads, n) and keys (m, kv_heads, n), with biases if asked for."""
        rows = E if self.q_a is None else _features(E, self.q_a, 1, self.q_a_norm).flatten(1)
        bias = self.biases if biased else {}
        queries = _features(rows, self.q, self.heads, self.q_norm, bias.get("q"))
        return queries, _features(E, self.k, self.kv_heads, self.k_norm, bias.get("k"))

    def values(self, E: Tensor) -> Tensor:
        """Values without biases, (m, kv_heads, v_head_dim)."""
        return _features(E, self.v, self.kv_heads, self.v_norm)

    def written_bias(self) -> Tensor:
        """What the biases of values, which have no norm, add to the output, (d,).

        The weights over tokens sum to one, so these biases are written whatever is attended to, and
        may as well be a part of the output's bias.
        """
        by_head = self.biases["v"].reshape(self.kv_heads, -1)
        return by_head.repeat_interleave(self.heads // self.kv_heads, dim=0).flatten() @ self.o

    def scores(self, E: Tensor) -> Tensor:
        """Sum over heads of queries times keys, (m, m).

        Consecutive query heads share a key-value head, so the queries of a group are summed before
        the product. The result is the same in fewer operations.
        """
        queries, keys = self.features(E)
        grouped = queries.reshape(len(E), self.kv_heads, -1, queries.shape[2]).sum(dim=2)
        return grouped.flatten(1) @ keys.flatten(1).T

    def write(self, E: Tensor) -> Tensor:
        """The output of attention over a single token, (m, d)."""
        values = self.values(E)
        by_head = self.o.view(self.kv_heads, self.heads // self.kv_heads, -1, self.o.shape[1])
        return values.flatten(1) @ by_head.sum(dim=1).flatten(0, 1)


def _features(
    E: Tensor, weight: Tensor, heads: int, norm: FeatureNorm | None, bias: Tensor | None = None
) -> Tensor:
    """Token rows (m, d) as features (m, heads, head_dim)."""
    flat = E @ weight if bias is None else E @ weight + bias
    features = flat.reshape(len(E), heads, -1)
    return features if norm is None else norm(features)


@dataclass(frozen=True)
class LatentAttention:
    """DeepSeek's multi-head latent attention (arXiv 2405.04434).

    Keys and values are read from a normalised latent of r numbers. The rotary part of the keys is
    the same for all heads and is read from the token directly. The qk term includes both parts.
    Shapes: q_a (d, rq) or None, q_b (rq or d, heads * (nope + rope)), kv_a (d, r),
    k_rope (d, rope), k_b (r, heads * nope), v_b (r, heads * v_head_dim), o (heads * v_head_dim, d).
    With `q_both` queries are read from the latent after and before its norm, and q_b is
    (2 rq, ...).
    """

    q_a: Tensor | None
    q_norm: FeatureNorm | None
    q_b: Tensor
    kv_a: Tensor
    kv_norm: FeatureNorm | None
    k_rope: Tensor
    k_b: Tensor
    v_b: Tensor
    o: Tensor
    heads: int
    k_rope_norm: FeatureNorm | None = None
    q_both: bool = False

    def _latent(self, E: Tensor) -> Tensor:
        return _features(E, self.kv_a, 1, self.kv_norm).flatten(1)

    def features(self, E: Tensor, biased: bool = False) -> tuple[Tensor, Tensor]:
        """Queries and keys, (m, heads, nope + rope) each."""
        rows = E if self.q_a is None else _features(E, self.q_a, 1, self.q_norm).flatten(1)
        if self.q_both and self.q_a is not None:
            rows = torch.cat([rows, E @ self.q_a], dim=1)
        queries = _features(rows, self.q_b, self.heads, None)
        keys = (self._latent(E) @ self.k_b).reshape(len(E), self.heads, -1)
        rotary = _features(E, self.k_rope, 1, self.k_rope_norm).expand(-1, self.heads, -1)
        return queries, torch.cat([keys, rotary], dim=2)

    def values(self, E: Tensor) -> Tensor:
        """Values, (m, heads, v_head_dim)."""
        return (self._latent(E) @ self.v_b).reshape(len(E), self.heads, -1)

    def scores(self, E: Tensor) -> Tensor:
        """Sum over heads of queries times keys, (m, m)."""
        rows = E if self.q_a is None else _features(E, self.q_a, 1, self.q_norm).flatten(1)
        if self.q_both and self.q_a is not None:
            rows = torch.cat([rows, E @ self.q_a], dim=1)
        queries = _features(rows, self.q_b, self.heads, None)
        nope = queries.shape[2] - self.k_rope.shape[1]
        keys = self._latent(E) @ self.k_b
        rotary = _features(E, self.k_rope, 1, self.k_rope_norm).flatten(1)
        scores = queries[:, :, :nope].flatten(1) @ keys.T
        return scores + queries[:, :, nope:].sum(dim=1) @ rotary.T

    def write(self, E: Tensor) -> Tensor:
        """The output of attention over a single token, (m, d)."""
        return self._latent(E) @ self.v_b @ self.o


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward network: up (d, hidden), gate (d, hidden) or None, down (hidden, d).

    `biases` has those of "up", "gate" and "down" that the module adds.
    """

    up: Tensor
    gate: Tensor | None
    down: Tensor
    biases: Mapping[str, Tensor] = field(default_factory=dict)

    def write(self, E: Tensor) -> Tensor:
        """The output when the activation is the identity, (m, d).

        Gate and up are multiplied after projection, because an elementwise product of the weights
        themselves is not invariant under a rotation of the residual stream.
        """
        hidden = E @ self.up
        if self.gate is not None:
            hidden = hidden * (E @ self.gate)
        return hidden @ self.down


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts: the mean of the routed experts plus the shared experts.

    Attributes:
        count: number of routed experts.
        read: reads one routed expert; called once per expert, so that only one is in memory.
        shared: the shared experts as one network, or None.
    """

    count: int
    read: Callable[[int], FeedForward]
    shared: FeedForward | None

    def write(self, E: Tensor) -> Tensor:
        """The output for evenly routed tokens, (m, d)."""
        written = torch.zeros_like(E)
        for index in range(self.count):
            written += self.read(index).write(E)
        written /= self.count
        return written if self.shared is None else written + self.shared.write(E)


@dataclass(frozen=True)
class Block:
    """One layer of the residual stream."""

    index: int
    attention: Attention | LatentAttention
    ffn: FeedForward | Mixture
