"""Merge methods: one model's weights from those of several models of the same shape."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

State = dict[str, Tensor]


def linear(states: Sequence[State], shares: Sequence[float], base: State) -> State:
    """The weighted mean."""
    weights = torch.tensor(shares)
    return {
        key: torch.tensordot(weights, torch.stack([state[key] for state in states]), 1)
        for key in states[0]
    }


def slerp(states: Sequence[State], shares: Sequence[float], base: State) -> State:
    """Spherical interpolation of two models, tensor by tensor (Shoemake, 1985)."""
    one, other = states
    return {key: _arc(one[key], other[key], shares[1]) for key in one}


def _arc(a: Tensor, b: Tensor, t: float) -> Tensor:
    angle = torch.arccos((a.flatten() @ b.flatten() / (a.norm() * b.norm())).clamp(-1, 1))
    if angle < 1e-4:  # nearly parallel: the arc is a line
        return (1 - t) * a + t * b
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


def ties(
    states: Sequence[State], shares: Sequence[float], base: State, density: float = 0.5
) -> State:
    """TIES (Yadav et al., 2023): trim each change, elect signs, average the changes that agree."""
    return {
        key: _elect([state[key] for state in states], shares, base[key], density) for key in base
    }


def _elect(
    tensors: Sequence[Tensor], shares: Sequence[float], base: Tensor, density: float
) -> Tensor:
    changes = []
    for tensor in tensors:
        change = tensor - base
        size = change.abs().flatten()
        least = size.kthvalue(max(1, round((1 - density) * len(size)))).values
        changes.append(torch.where(change.abs() >= least, change, 0.0))
    stacked = torch.stack(changes)
    weights = torch.tensor(shares).reshape(-1, *[1] * base.dim())
    sign = (weights * stacked).sum(0).sign()
    agreeing = weights * (stacked.sign() == sign) * (stacked != 0)
    merged: Tensor = (agreeing * stacked).sum(0) / agreeing.sum(0).clamp(min=1e-9)
    return base + merged


METHODS: dict[str, Callable[[Sequence[State], Sequence[float], State], State]] = {
    "linear": linear,
    "slerp": slerp,
    "ties": ties,
}
