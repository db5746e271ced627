"""Do two models whose hidden units correspond share training, or only the draw that they began as?

Initial weights have no preferred direction; training writes a few strong ones into them. Let A
and B (k, r) hold one role's features of k corresponding units. Two models that began as one draw
correlate, but each has learned directions of its own; a descendant has also its ancestor's. So
with U the K leading left singular vectors of each, which live in the space of hidden units and
thus mean nothing to any third model,

    overlap = |U_A^T U_B|^2 / K                      what they share of what was learned
    inherited = (overlap - K/k) / (1 - K/k) / corr(A, B)

compares that with how alike the units are altogether. What was learned weighs less the less was
learned: two models that left one initialisation a short while ago inherit 0.74 at a correlation of
0.88, where continued pretraining inherits 0.84 at 0.91; so both figures are needed. (Zoo, K = 8,
mean over blocks: fine-tunes 0.97 at 0.99; further training as long and as hot as the first 0.65 at
0.67; twins from one initialisation 0.41 at 0.54, and 0.35 at 0.36.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from huref.lineage.unit_matching import DOWN, UP, UnitMatching

LEADING = 8
MIN_UNITS = 64  # corresponding ones; below it the leading directions overlap by chance


@dataclass(frozen=True)
class Inheritance:
    """How alike corresponding units are, and how much of what was learned they share.

    Attributes:
        share: of the leading directions, against the correlation; see above.
        correlation: of the features.
    """

    share: float
    correlation: float


def measure_inheritance(a: Tensor, b: Tensor, matching: UnitMatching) -> Inheritance | None:
    """Compare the leading directions of corresponding units.

    Args:
        a: features (units of A, 3, r) of one network, gate, up and down.
        b: likewise of B.
        matching: which units correspond.

    Returns:
        Means over the roles that both have, or None for too few units.
    """
    if len(matching.a) < MIN_UNITS:
        return None
    x, y = _balanced(a[matching.a]), _balanced(b[matching.b])
    signs = (x[:, UP:] * y[:, UP:]).sum(dim=(1, 2)).sign()
    y[:, UP:] *= signs[:, None, None]
    roles = [_compare(x[:, role], y[:, role]) for role in range(x.shape[1])]
    return average([role for role in roles if role is not None])


def average(parts: Sequence[Inheritance]) -> Inheritance | None:
    """The mean of some, None of none."""
    if not parts:
        return None
    return Inheritance(
        sum(part.share for part in parts) / len(parts),
        sum(part.correlation for part in parts) / len(parts),
    )


def _balanced(features: Tensor) -> Tensor:
    """Units whose up and down are equally long; a network's function fixes only the product."""
    balanced = features.float().clone()
    up, down = (balanced[:, role].norm(dim=1).clamp(min=1e-30) for role in (UP, DOWN))
    balanced[:, UP] *= (down / up).sqrt()[:, None]
    balanced[:, DOWN] *= (up / down).sqrt()[:, None]
    return balanced


def _compare(a: Tensor, b: Tensor) -> Inheritance | None:
    """Of one role, (k, r) each; None where either is zero or they do not correlate."""
    norms = float(a.norm() * b.norm())
    correlation = float((a * b).sum()) / norms if norms else 0.0
    if correlation <= 0:
        return None
    chance = LEADING / len(a)
    overlap = float((_leading(a).T @ _leading(b)).square().sum()) / LEADING
    return Inheritance((overlap - chance) / (1 - chance) / correlation, correlation)


def _leading(features: Tensor) -> Tensor:
    """The leading left singular vectors, (k, LEADING)."""
    values, vectors = torch.linalg.eigh(features.T @ features)
    strongest = slice(-LEADING, None)
    scale = values[strongest].clamp(min=1e-30).rsqrt()
    result: Tensor = (features @ vectors[:, strongest]) * scale
    return result
