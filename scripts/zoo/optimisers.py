"""The optimisers with which models of the zoos are trained."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

Groups = list[dict[str, Any]]


class Lion(Optimizer):
    """Steps of the sign of an interpolated momentum (Chen et al., 2023, arXiv 2302.06675)."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float):
        super().__init__(groups, {"lr": lr, "betas": (0.9, 0.99), "weight_decay": 0.0})

    def step(self, closure: Any = None) -> Any:
        """Update all parameters that have a gradient."""
        with torch.no_grad():
            self._update()

    def _update(self) -> None:
        for group in self.param_groups:
            rate, (fast, slow) = group["lr"], group["betas"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.sub_(rate * torch.lerp(gradient, momentum, fast).sign())
                momentum.lerp_(gradient, 1 - slow)


class Orthogonal(Optimizer):
    """Steps of orthogonalised momentum for matrices, of its sign for vectors.

    The polar factor replaces the momentum of a matrix, as in Muon (Jordan et al., 2024).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float):
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})

    def step(self, closure: Any = None) -> Any:
        """Update all parameters that have a gradient."""
        with torch.no_grad():
            self._update()

    def _update(self) -> None:
        for group in self.param_groups:
            rate = group["lr"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                momentum.mul_(0.95).add_(parameter.grad)
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.sub_(rate * _direction(momentum))


def _direction(momentum: Tensor) -> Tensor:
    """The polar factor of a matrix by Newton and Schulz's iteration, scaled to unit entries."""
    if momentum.ndim < 2:
        return momentum.sign()
    x = momentum / momentum.norm().clamp(min=1e-12)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    for _ in range(8):
        x = 1.5 * x - 0.5 * (x @ x.T) @ x
    scale = max(momentum.shape) ** 0.5
    direction: Tensor = scale * (x if wide else x.T)
    return direction


def _adamw(groups: Groups, rate: float) -> Optimizer:
    return AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)


def _adam(groups: Groups, rate: float) -> Optimizer:
    return Adam(_without_decay(groups), lr=rate, betas=(0.9, 0.999), fused=True)


def _sgd(groups: Groups, rate: float) -> Optimizer:
    return SGD(_without_decay(groups), lr=rate, momentum=0.9, nesterov=True)


def _rmsprop(groups: Groups, rate: float) -> Optimizer:
    return RMSprop(_without_decay(groups), lr=rate, alpha=0.95)


def _without_decay(groups: Groups) -> Groups:
    return [group | {"weight_decay": 0.0} for group in groups]


OPTIMISERS: dict[str, Callable[[Groups, float], Optimizer]] = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
    "rmsprop": _rmsprop,
    "lion": Lion,
    "orthogonal": Orthogonal,
}
