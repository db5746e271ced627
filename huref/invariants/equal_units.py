"""Units with equal gates as one: splitting a unit, or adding parts that cancel, changes nothing.

Units of a gated network whose gate vectors are equal see the same activation a, and write a times
x sum(u d^T). That matrix is all the function knows of them; its singular vectors, as many as are
needed, are the canonical units. See docs/maths.md, Function.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from huref.architecture.block import FeedForward
from huref.invariants.forward import UnitUse

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
