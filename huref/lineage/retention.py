"""Does one model still hold what the other had learned, or only the draw that both began as?

Initial weights have no preferred direction; training writes a few strong ones into them. Let H be
the cosines between the vectors of k corresponding hidden units (see `invariants.relations`), zero
on the diagonal, and H_A = sum over i of l_i u_i u_i^T. What A learned stands out in the LEADING
eigenvectors of largest |l|; the rest R_A of H_A is mostly its initial draw. Then

    kept    = sum of sign(l_i) u_i^T H_B u_i / sum of |l_i|      over the leading ones
    carried = <R_A, H_B> / <R_A, H_A>
    retention of A in B = kept / carried

A descendant was trained on with all its weights, learned and drawn ones, so it keeps of the one
what it carries of the other, however far it went: the retention of an ancestor in it is about 1.
Two models that left one draw apart carry the draw and have learned other things: both retentions
are below 1. The larger of the two tells descent from a shared initialisation. What a descendant
learned in addition its ancestor does not hold, so the retention the other way is below 1; which of
them is larger says who stands nearer the root. Neither embeddings nor the basis of the residual
stream nor the scale of a unit matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from huref.invariants.relations import Relations
from huref.lineage.units import Matching

LEADING = 8
MIN_UNITS = 48  # corresponding ones in both samples; fewer have too few directions to tell apart
GATED = 3  # roles
Network = tuple[int, int]  # block, and expert or EVERY_TOKEN


@dataclass(frozen=True)
class Retention:
    """How much of what one model learned the other retains, against how much it carries at all.

    Attributes:
        of_a: of A's learned directions in B.
        of_b: of B's in A.
        carried: correlation of the cosines, the lower the longer apart.
    """

    of_a: float
    of_b: float
    carried: float

    @property
    def larger(self) -> float:
        """Of the one that stands nearer the root."""
        return max(self.of_a, self.of_b)


def measure_retention(
    a: Relations, b: Relations, networks: tuple[Network, Network], matching: Matching
) -> Retention | None:
    """Compare what corresponding units have in common in two models.

    Args:
        a: of one model.
        b: of the other.
        networks: which network of each.
        matching: which units of these networks correspond.

    Returns:
        None where too few corresponding units are in both samples, or only one network is gated.
    """
    places = [held.find(*network) for held, network in zip((a, b), networks, strict=True)]
    if places[0] is None or places[1] is None:
        return None
    mine, theirs = matching.among(a.units_of(places[0]), b.units_of(places[1]))
    x, y = a.of_network(places[0]), b.of_network(places[1])
    if len(mine) < MIN_UNITS or len(x) != len(y):
        return None
    x, y = x[:, mine][..., mine], y[:, theirs][..., theirs]
    if len(x) == GATED:
        y = _same_signs(x, y)
    x, y = (cosines.flatten(2).flatten(0, 1) for cosines in (x, y))
    inner = float((x * y).sum())
    if inner <= 0:
        return None
    return Retention(_retain(x, y), _retain(y, x), inner / float(x.norm() * y.norm()))


def mean_retention(parts: Sequence[Retention]) -> Retention | None:
    """The mean of some, None of none."""
    if not parts:
        return None
    sums = [sum(values) / len(parts) for values in zip(*map(_values, parts), strict=True)]
    return Retention(*sums)


def _values(part: Retention) -> tuple[float, float, float]:
    return part.of_a, part.of_b, part.carried


def _same_signs(x: Tensor, y: Tensor) -> Tensor:
    """Y with the up and down of each unit negated where that suits its gates better.

    Negating both changes nothing in a gated network, so their sign is a matter of convention.
    """
    agree = (x[0, :, 1:] * y[0, :, 1:]).sum(dim=(0, 1))
    signs = torch.stack([torch.ones_like(agree), *[torch.where(agree < 0, -1.0, 1.0)] * 2])
    return y * signs[:, :, None, None] * signs


def _retain(x: Tensor, y: Tensor) -> float:
    """The retention of X in Y, (n, n) each, symmetric with a zero diagonal."""
    values, vectors = torch.linalg.eigh(x)
    strongest = values.abs().argsort(descending=True)[:LEADING]
    values, vectors = values[strongest], vectors[:, strongest]
    in_y = ((vectors.T @ y) * vectors.T).sum(dim=1)
    kept = float((in_y * values.sign()).sum() / values.abs().sum())
    rest = x - (vectors * values) @ vectors.T
    carried = float((rest * y).sum() / (rest * x).sum())
    return kept / max(carried, 1e-6)
