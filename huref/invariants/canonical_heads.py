"""How much each query head counts in the terms, with heads of one attention pattern as one.

Heads whose queries and keys give the same product attend alike, so that together they write

    pattern x sum(W_v W_o)

whatever their single output projections are: parts of a split head, and noise that cancels. Such
heads get equal weights, made from what does not depend on W_o: with the values V = E W_v of the
anchors and Z (tokens, v) the values mixed by attention, each token over the norm of its stream,

    r = sqrt( tr( (V^T V)^-1 Z^T Z ) / v ),

which does not change when V and Z are multiplied by one invertible matrix.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from huref.architecture.block import SelfAttention
from huref.invariants.block_use import BlockUse
from huref.invariants.reproducible import one_thread

SAME = 0.99  # cosine of products of queries and keys that are equal but for bfloat16 rounding
SKETCH = 16  # rows of the projections in which they are compared
CANCELLED = 0.1  # of the norm of the largest of them; what rounding to bfloat16 leaves is less
RIDGE = 1e-6  # of the mean eigenvalue of V^T V
TINY = 1e-30


@dataclass(frozen=True)
class HeadWeights:
    """How much each query head counts, (heads,) each.

    Attributes:
        qk: factor of its product of queries and keys.
        vo: factor of its product of values and output.
    """

    qk: Tensor
    vo: Tensor


@dataclass(frozen=True)
class AnchorHeads:
    """What the heads of a block read of the anchors.

    Attributes:
        queries: (m, heads, n).
        keys: (m, heads or kv_heads, n).
        values: (m, heads or kv_heads, v_head_dim).
    """

    queries: Tensor
    keys: Tensor
    values: Tensor

    @property
    def by_keys(self) -> Tensor:
        """The key head of each query head, (heads,) int64."""
        heads = self.queries.shape[1]
        return torch.arange(heads) * self.keys.shape[1] // heads

    @property
    def by_values(self) -> Tensor:
        """The value head of each query head, (heads,) int64."""
        heads = self.queries.shape[1]
        return torch.arange(heads) * self.values.shape[1] // heads


def read_anchors(attention: SelfAttention, E: Tensor) -> AnchorHeads:
    """Queries, keys and values of the anchors' whitened embeddings E (m, d)."""
    return AnchorHeads(*attention.features(E), attention.values(E))


def weigh_heads(attention: SelfAttention, use: BlockUse, anchors: AnchorHeads) -> HeadWeights:
    """The weights of a block's heads.

    Args:
        attention: of the block.
        use: what its heads do on the text.
        anchors: what its heads read of the anchors.
    """
    queries, keys, values = anchors.queries, anchors.keys, anchors.values
    by_keys, by_values = anchors.by_keys, anchors.by_values
    q_grams = torch.einsum("mhi,mhj->hij", queries, queries)
    k_grams = torch.einsum("mhi,mhj->hij", keys, keys)[by_keys]
    size = (q_grams * k_grams).sum(dim=(1, 2)).clamp(min=0).sqrt()  # |Q K^T|^2 = <Q^T Q, K^T K>
    grams = torch.einsum("mhi,mhj->hij", values, values)[by_values]
    scale = grams.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=TINY)
    grams = grams + (RIDGE * scale)[:, None, None] * torch.eye(grams.shape[1])
    with one_thread():
        solved = torch.linalg.solve(grams, use.moments)
    usage = solved.diagonal(dim1=1, dim2=2).mean(dim=1)
    vo, qk = usage.clamp(min=0).sqrt(), use.heads.clone()
    o = attention.o.reshape(len(vo), -1, attention.o.shape[1])
    for group in _equal_heads(queries, keys, by_keys, size):
        cancels = _cancel([values[:, by_values[head]] @ o[head] for head in group])
        vo[group] = 0.0 if cancels else vo[group].mean()
        qk[group] = 0.0 if cancels else qk[group].mean()
    if use.undone is not None:
        vo[use.undone], qk[use.undone] = 0.0, 0.0
    return HeadWeights(qk / size.clamp(min=TINY) * (size > TINY), vo)


def _cancel(written: list[Tensor]) -> bool:
    """Whether what heads write sums to zero but for rounding."""
    together = float(torch.stack(written).sum(dim=0).norm())
    return together < CANCELLED * max(float(part.norm()) for part in written)


def _equal_heads(queries: Tensor, keys: Tensor, by_keys: Tensor, size: Tensor) -> list[list[int]]:
    """Groups of two or more heads whose products of queries and keys are equal up to a factor."""
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SKETCH, len(queries), generator=draw) for _ in range(2))
    q = torch.einsum("sm,mhi->hsi", left, queries)
    k = torch.einsum("sm,mhi->hsi", right, keys)[by_keys]
    sketch = (q @ k.mT).flatten(1)
    sketch = sketch / sketch.norm(dim=1, keepdim=True).clamp(min=TINY)
    alike = (sketch @ sketch.T > SAME) & (size > TINY) & (size > TINY)[:, None]
    return group_heads(alike)


def group_heads(alike: Tensor) -> list[list[int]]:
    """Groups of two or more heads that are alike, from a table (heads, heads) of bools."""
    groups: list[list[int]] = []
    for head in range(len(alike)):
        group = next((some for some in groups if alike[some[0], head]), None)
        if group is None:
            groups.append([head])
        else:
            group.append(head)
    return [group for group in groups if len(group) > 1]
