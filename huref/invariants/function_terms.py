"""Terms weighed by use: what heads and units do on a text decides how much they count.

    qk  = sum over heads   a_h (E W_q) (E W_k)^T / |.|        a_h: the head's share of the output
    vo  = sum over heads   e_h (E W_v) (W_o E^T) / |.|        e_h: energy of the head's output
    ffn = ((E W_up) * (E W_gate) * r) W_down E^T              r: activation over static gate

|.| is the Frobenius norm of the head's own product. Shares and energies are measured by
`huref.invariants.forward`. A head or unit that does nothing weighs nothing; heads and units that
cancel cancel here as well; split units sum, since r depends on the gate alone. See docs/maths.md,
Function.
"""

import torch
from torch import Tensor

from huref.architecture.block import FeedForward, SelfAttention
from huref.invariants.block_use import BlockUse, UnitUse

FUNCTION = "function-1"  # value of the recipe's `terms`
TINY = 1e-30


def used_attention_terms(
    attention: SelfAttention, use: BlockUse, E: Tensor
) -> tuple[Tensor, Tensor]:
    """The qk and vo terms weighed by use, each (m, m)."""
    queries, keys = attention.features(E)
    values = attention.values(E)
    heads = queries.shape[1]
    o = attention.o.reshape(heads, -1, attention.o.shape[1])
    qk, written = torch.zeros(len(E), len(E)), torch.zeros_like(E)
    grams = E.T @ E if E.shape[1] < len(E) else None
    for head in range(heads):
        q = queries[:, head]
        k = keys[:, head * keys.shape[1] // heads]
        v = values[:, head * values.shape[1] // heads]
        # |Q K^T|^2 = <Q^T Q, K^T K>
        size = ((q.T @ q) * (k.T @ k)).sum().clamp(min=0).sqrt()
        if size > TINY:
            qk += (use.heads[head] / size) * (q @ k.T)
        right = o[head] @ grams @ o[head].T if grams is not None else _gram(o[head] @ E.T)
        size = ((v.T @ v) * right).sum().clamp(min=0).sqrt()
        if size > TINY:
            written += (use.head_energy[head] / size) * (v @ o[head])
    return qk, written @ E.T


def _gram(rows: Tensor) -> Tensor:
    return rows @ rows.T


def used_network(network: FeedForward, use: UnitUse, E: Tensor) -> Tensor:
    """What a network writes on rows E (m, d) with its units weighed by use, (m, d)."""
    gated = E @ (network.up if network.gate is None else network.gate)
    static = gated.square().mean(dim=0).sqrt()
    ratio = torch.where(static > TINY, use.active / static.clamp(min=TINY), 0.0)
    hidden = gated * ratio
    if network.gate is not None:
        hidden = hidden * (E @ network.up)
    return hidden @ network.down
