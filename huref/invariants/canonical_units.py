"""Canonical units: what no input reaches is left out, and units with equal gates are one.

Splitting a unit, or adding parts that cancel, changes nothing of what a network computes. Units
of a gated network whose gate vectors are equal have the same activation a, and together write
a x sum(u d^T). The function depends on that matrix alone; its singular vectors, as many as are
needed, are the canonical units. See docs/maths.md, Function.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from huref.architecture.block import Attention, FeedForward, LatentAttention
from huref.invariants.forward import BlockUse, UnitUse

SAME = 1 - 2e-4  # cosine of gates that are equal but for bfloat16 rounding
SAME_LENGTH = 0.01  # relative difference of their lengths
SKETCH = 64  # projections in which candidates are looked for
RANK = 0.1  # singular values below this share of the first are rounding noise
ROWS = 2048


@dataclass(frozen=True)
class EqualUnits:
    """A network with equal gates merged, and how many units that removed."""

    network: FeedForward
    use: UnitUse
    removed: int


def find_groups(gate: Tensor) -> list[list[int]]:
    """Groups of two or more equal columns of a gate (d, units); a zero column is in none."""
    length = gate.norm(dim=0)
    normal = gate / length.clamp(min=1e-30)
    signs = torch.randn(SKETCH, len(gate), generator=torch.Generator().manual_seed(0))
    sketch = (signs @ normal / SKETCH**0.5).T  # (units, SKETCH): norms near one
    sketch = sketch / sketch.norm(dim=1, keepdim=True).clamp(min=1e-30)
    floor = 1e-6 * float(length.median())
    parent = list(range(gate.shape[1]))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for start in range(0, len(sketch), ROWS):
        near = sketch[start : start + ROWS] @ sketch.T > 1 - 10 * (1 - SAME)
        near &= torch.arange(len(sketch)) > torch.arange(start, start + len(near))[:, None]
        for i, j in near.nonzero().tolist():
            i += start
            if min(length[i], length[j]) <= floor:
                continue
            alike = abs(float(length[i] - length[j])) < SAME_LENGTH * float(length[i])
            if alike and float(normal[:, i] @ normal[:, j]) > SAME:
                parent[root(j)] = root(i)
    groups: dict[int, list[int]] = {}
    for i in range(len(parent)):
        groups.setdefault(root(i), []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def merge_equal_units(network: FeedForward, use: UnitUse) -> EqualUnits:
    """A network whose units all have different gates; the first of a group keeps its place."""
    if network.gate is None or network.biases:
        return EqualUnits(network, use, 0)
    groups = find_groups(network.gate)
    if not groups:
        return EqualUnits(network, use, 0)
    keep = torch.ones(network.up.shape[1], dtype=torch.bool)
    up, down, shares = network.up.clone(), network.down.clone(), use.shares.clone()
    for group in groups:
        # sum u d^T = U D; from thin factors, without the (d, d) product
        q_u, r_u = torch.linalg.qr(network.up[:, group])
        q_d, r_d = torch.linalg.qr(network.down[group].T)
        left, size, right = torch.linalg.svd(r_u @ r_d.T)
        rank = max(int((size > RANK * size[0]).sum()), 1) if size[0] > 0 else 1
        share = float(use.shares[group].sum())
        weights = size[:rank].square() / size[:rank].square().sum().clamp(min=1e-30)
        for place, unit in enumerate(group[:rank]):
            scale = size[place].sqrt()
            up[:, unit] = q_u @ left[:, place] * scale
            down[unit] = q_d @ right[place] * scale
            shares[unit] = share * weights[place]
        keep[group[rank:]] = False
    merged = FeedForward(up[:, keep], network.gate[:, keep], down[keep])
    removed = int((~keep).sum())
    return EqualUnits(merged, UnitUse(use.active[keep], shares[keep]), removed)


def without_directions(network: FeedForward, unused: Tensor) -> FeedForward:
    """A network that does not read some directions of the stream, orthonormal rows (n, d)."""
    gate = None if network.gate is None else _without(network.gate, unused)
    return replace(network, up=_without(network.up, unused), gate=gate)


def attention_without(
    attention: Attention | LatentAttention, unused: Tensor
) -> Attention | LatentAttention:
    """Attention that does not read some directions of the stream, orthonormal rows (n, d)."""
    if isinstance(attention, LatentAttention):
        q_a = None if attention.q_a is None else _without(attention.q_a, unused)
        q_b = attention.q_b if q_a is not None else _without(attention.q_b, unused)
        kv_a, k_rope = (_without(W, unused) for W in (attention.kv_a, attention.k_rope))
        return replace(attention, q_a=q_a, q_b=q_b, kv_a=kv_a, k_rope=k_rope)
    q_a = None if attention.q_a is None else _without(attention.q_a, unused)
    q = attention.q if q_a is not None else _without(attention.q, unused)
    k, v = _without(attention.k, unused), _without(attention.v, unused)
    return replace(attention, q_a=q_a, q=q, k=k, v=v)


def _without(weight: Tensor, unused: Tensor) -> Tensor:
    return weight - unused.T @ (unused @ weight)


def used_attention(
    attention: Attention | LatentAttention, use: BlockUse
) -> Attention | LatentAttention:
    """Attention whose heads count by what they write, for barcodes.

    Each head's W_q W_k^T is scaled to its share of the output and its W_v W_o to its energy, so
    that a head without effect counts nothing. Where queries or keys pass a norm, W_q W_k^T is kept.
    """
    if isinstance(attention, LatentAttention) or attention.v_norm is not None:
        return attention
    heads, groups = attention.heads, attention.kv_heads
    o = attention.o.reshape(heads, -1, attention.o.shape[1])
    v = attention.v.reshape(len(attention.v), groups, -1)
    k = attention.k.reshape(len(attention.k), groups, -1)
    q = attention.q.reshape(len(attention.q), heads, -1)
    plain = attention.q_norm is None and attention.k_norm is None and attention.q_a is None
    new_q, new_o = q.clone(), o.clone()
    for head in range(heads):
        group = head * groups // heads
        size = ((v[:, group].T @ v[:, group]) * (o[head] @ o[head].T)).sum().clamp(min=0).sqrt()
        new_o[head] = o[head] * (use.head_energy[head] / size.clamp(min=1e-30))
        if plain:
            size = ((q[:, head].T @ q[:, head]) * (k[:, group].T @ k[:, group])).sum()
            size = size.clamp(min=0).sqrt().clamp(min=1e-30)
            new_q[:, head] = q[:, head] * (use.heads[head] / size)
    return replace(attention, q=new_q.flatten(1), o=new_o.flatten(0, 1))
