"""Terms weighed by use: what heads and units do on a text decides how much they count.

    qk  = sum over heads   a_h (E W_q)(E W_k)^T / |.|        a_h: the head's share of the output
    vo  = sum over heads   r_h (E W_v)(W_o E^T)              r_h: mixed values over static values
    ffn = ((E W_up) * (E W_gate) * r) W_down E^T             r: activation over static gate

|.| is the Frobenius norm of the head's own product. Shares are measured by
`huref.invariants.forward`, weights of heads made by `huref.invariants.canonical_heads`. A head or
unit that does nothing weighs nothing; heads and units that cancel cancel here as well; split ones
sum, since r_h depends on attention and values alone, and r on the gate alone. See docs/maths.md,
Function.
"""

import torch
from torch import Tensor

from huref.architecture.block import FeedForward, SelfAttention
from huref.invariants.block_use import UnitUse
from huref.invariants.canonical_heads import HeadWeights

FUNCTION = "function-1"  # value of the recipe's `terms`
TINY = 1e-30


def used_attention_terms(
    attention: SelfAttention, weights: HeadWeights, E: Tensor
) -> tuple[Tensor, Tensor]:
    """The qk term (m, m), and what attention writes on rows E (m, d), both weighed by use."""
    queries, keys = attention.features(E)
    values = attention.values(E)
    heads = queries.shape[1]
    o = attention.o.reshape(heads, -1, attention.o.shape[1])
    qk, written = torch.zeros(len(E), len(E)), torch.zeros_like(E)
    for head in range(heads):
        k = keys[:, head * keys.shape[1] // heads]
        v = values[:, head * values.shape[1] // heads]
        qk += weights.qk[head] * (queries[:, head] @ k.T)
        written += weights.vo[head] * (v @ o[head])
    return qk, written


def used_network(network: FeedForward, use: UnitUse, E: Tensor) -> Tensor:
    """What a network writes on rows E (m, d) with its units weighed by use, (m, d)."""
    gated = E @ (network.up if network.gate is None else network.gate)
    static = gated.square().mean(dim=0).sqrt()
    ratio = torch.where(static > TINY, use.active / static.clamp(min=TINY), 0.0)
    hidden = gated * ratio
    if network.gate is not None:
        hidden = hidden * (E @ network.up)
    return hidden @ network.down
