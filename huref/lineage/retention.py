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

Noise (a mask, coarse levels) in the weights of A lowers what B carries of A's rest, but hardly what
it keeps of A's leading directions: the retention of A rises, to 1.6 where half of A's weights are
masked. That of B in A stays what it was. So a twin under noise as large as its weights can pass for
a descendant. These figures cannot tell: fresh noise is to them as a fresh draw is, and a long and
hot continuation has a retention of its child below that of a twin and one of its ancestor above 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from huref.invariants.relations import Relations
from huref.lineage.unit_matching import UnitMatching

LEADING = 8
MIN_UNITS = 48  # corresponding ones in both samples; fewer have too few directions to tell apart
GATED = 3  # roles
ALL = 0.9995  # retention that rounds to 100.0 %
Network = tuple[int, int]  # block, and expert or EVERY_TOKEN
Spectrum = tuple[Tensor, Tensor]
_KEPT: WeakKeyDictionary[Relations, dict[int, Spectrum]] = WeakKeyDictionary()


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

    @property
    def smaller(self) -> float:
        """Of the one that stands further from the root."""
        return min(self.of_a, self.of_b)


def in_words(retention: float) -> str:
    """How much of what was learned is kept: a share, or all of it.

    What a descendant keeps it may have made stronger; more than all there is not.
    """
    return "all" if retention >= ALL else f"{100 * max(retention, 0.0):.1f} %"


def measure_retention(
    a: Relations, b: Relations, networks: tuple[Network, Network], matching: UnitMatching
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
    strong_x, strong_y = _strongest(a, places[0], x, mine), _strongest(b, places[1], y, theirs)
    x, y = x[:, mine][..., mine], y[:, theirs][..., theirs]
    if len(x) == GATED:
        signs = _signs(x, y)
        y = y * signs[:, :, None, None] * signs
        strong_y = strong_y[0], strong_y[1] * signs.flatten()[:, None]
    x, y = (cosines.flatten(2).flatten(0, 1) for cosines in (x, y))
    inner = float((x * y).sum())
    if inner <= 0:
        return None
    norms = float(x.norm()), float(y.norm())
    of_a = _retain(strong_x, y, inner, norms[0] ** 2)
    of_b = _retain(strong_y, x, inner, norms[1] ** 2)
    return Retention(of_a, of_b, inner / (norms[0] * norms[1]))


def mean_retention(parts: Sequence[Retention]) -> Retention | None:
    """The mean of some, None of none."""
    if not parts:
        return None
    sums = [sum(values) / len(parts) for values in zip(*map(_values, parts), strict=True)]
    return Retention(*sums)


def _values(part: Retention) -> tuple[float, float, float]:
    return part.of_a, part.of_b, part.carried


def _signs(x: Tensor, y: Tensor) -> Tensor:
    """Signs (3, units) of Y's vectors: up and down negated where that suits the gates better.

    Negating both changes nothing in a gated network, so their sign is a matter of convention.
    """
    agree = (x[0, :, 1:] * y[0, :, 1:]).sum(dim=(0, 1))
    return torch.stack([torch.ones_like(agree), *[torch.where(agree < 0, -1.0, 1.0)] * 2])


def _strongest(held: Relations, network: int, cosines: Tensor, chosen: Tensor) -> Spectrum:
    """The leading eigenvalues (LEADING,) and eigenvectors (roles * units, LEADING) of some units.

    Those of a whole sample are kept for the next pair, in whatever order its units come.

    Args:
        held: what the network belongs to.
        network: which one.
        cosines: of its whole sample, (roles, units, roles, units).
        chosen: positions of the units in the sample, each once.
    """
    if len(chosen) < cosines.shape[1]:
        return _decompose(cosines[:, chosen][..., chosen])
    kept = _KEPT.setdefault(held, {})
    if network not in kept:
        kept[network] = _decompose(cosines)
    values, vectors = kept[network]
    by_unit = vectors.view(len(cosines), -1, vectors.shape[1])
    return values, by_unit[:, chosen].flatten(0, 1)


def _decompose(cosines: Tensor) -> Spectrum:
    values, vectors = torch.linalg.eigh(cosines.flatten(2).flatten(0, 1))
    strongest = values.abs().argsort(descending=True)[:LEADING]
    return values[strongest], vectors[:, strongest]


def _retain(leading: Spectrum, other: Tensor, inner: float, square: float) -> float:
    """The retention of X in Y.

    Args:
        leading: of X.
        other: Y, (n, n), zero on the diagonal, so that it sees nothing of the diagonal of R_X.
        inner: <X, Y>.
        square: <X, X>.
    """
    values, vectors = leading
    in_other = (vectors * (other @ vectors)).sum(dim=0)
    kept = float((in_other * values.sign()).sum() / values.abs().sum())
    carried = (inner - float(values @ in_other)) / (square - float(values @ values))
    return kept / max(carried, 1e-6)
