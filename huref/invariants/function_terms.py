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
from huref.invariants.canonical_heads import AnchorHeads, HeadWeights

FUNCTION = "function-1"  # value of the recipe's `terms`
TINY = 1e-30


def used_attention_terms(
    attention: SelfAttention, weights: HeadWeights, anchors: AnchorHeads
) -> tuple[Tensor, Tensor]:
    """The qk term (m, m), and what attention writes on the anchors (m, d), both weighed by use."""
    queries = anchors.queries * weights.qk[:, None]
    values = anchors.values[:, anchors.by_values] * weights.vo[:, None]
    keys = anchors.keys[:, anchors.by_keys]
    return queries.flatten(1) @ keys.flatten(1).T, values.flatten(1) @ attention.o


def used_network(network: FeedForward, use: UnitUse, E: Tensor) -> Tensor:
    """What a network writes on rows E (m, d) with its units weighed by use, (m, d)."""
    gated = E @ (network.up if network.gate is None else network.gate)
    static = gated.square().mean(dim=0).sqrt()
    ratio = torch.where(static > TINY, use.active / static.clamp(min=TINY), 0.0)
    hidden = gated * ratio
    if network.gate is not None:
        hidden = hidden * (E @ network.up)
    return hidden @ network.down
