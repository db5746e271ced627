"""Retention: how much of what one model learned another retains.

Initial weights have no preferred direction; training adds a few strong ones. Let H be the cosines
between the vectors of k corresponding hidden units (see `invariants.relations`), zero on the
diagonal, with H_A = sum over i of l_i u_i u_i^T. The LEADING eigenvectors of largest |l| are what A
learned; the rest R_A of H_A is mostly A's random initial part. Then

    kept    = sum of sign(l_i) u_i^T H_B u_i / sum of |l_i|      over the leading ones
    carried = <R_A, H_B> / <R_A, H_A>
    retention of A in B = kept / carried

Training a descendant changes all its weights, learned and initial ones, so it keeps the same
fraction of both however long it was trained: the retention of an ancestor in it is about 1. Two
models trained independently from one initialisation carry the initial part and have learned
different directions: both retentions are below 1. The larger of the two separates descent from a
shared initialisation. What a descendant learned in addition is missing in its ancestor, so the
retention of the descendant in the ancestor is below 1; which of the two is larger shows the
direction. The retention depends neither on embeddings nor on the basis of the residual stream nor
on the scale of a unit (docs/maths.md, Statistics).

Noise (a mask, coarse levels) in the weights of A lowers what B carries of A's rest, but hardly what
it keeps of A's leading directions: the retention of A rises, to 1.6 where half of A's weights are
masked. The retention of B in A does not change. So a twin with noise as large as its weights can
pass for a descendant. No rule on these figures prevents that: noise acts on them as another
initialisation does, and after long training at a high learning rate a child's retention in its
ancestor is below that of twins while the ancestor's in the child is above 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from huref.invariants.relations import Relations
from huref.lineage.unit_matching import UnitMatching

LEADING = 8
MIN_UNITS = 48  # corresponding units in both samples; fewer span too few directions
GROUPS = 16  # groups of units, of which the jackknife leaves out one at a time
GATED = 3  # number of roles of a gated network
Network = tuple[int, int]  # block, and expert or EVERY_TOKEN
Spectrum = tuple[Tensor, Tensor]
_CACHE: WeakKeyDictionary[Relations, dict[int, Spectrum]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Retention:
    """How much of what one model learned the other retains, both ways.

    Attributes:
        of_a: retention of A in B.
        of_b: retention of B in A.
        carried: correlation of the cosines of A and B; it falls as the models are trained on.
        error_of_a, error_of_b: standard errors of both, by a jackknife over groups of units.
        error_of_difference: likewise of `of_a - of_b`.
        further_a, further_b: retention in the leading directions after the first, which every
            training from one initialisation finds.
        error_of_further_a, error_of_further_b: their standard errors.
        learned_a, learned_b: by how much the eigenvalues of these directions exceed those of random
            vectors, as a share of them; near 0 for a model that has hardly been trained. 0 where
            the width is not known.
        roles: vectors of a unit, 3 with a gate and 2 without.
    """

    of_a: float
    of_b: float
    carried: float
    error_of_a: float = 0.0
    error_of_b: float = 0.0
    error_of_difference: float = 0.0
    further_a: float = 0.0
    further_b: float = 0.0
    error_of_further_a: float = 0.0
    error_of_further_b: float = 0.0
    learned_a: float = 0.0
    learned_b: float = 0.0
    roles: int = GATED

    @property
    def larger(self) -> float:
        """Retention of the model nearer the root."""
        return max(self.of_a, self.of_b)

    @property
    def smaller(self) -> float:
        """Retention of the model further from the root."""
        return min(self.of_a, self.of_b)

    @property
    def error(self) -> float:
        """Standard error of the larger retention."""
        return self.error_of_a if self.of_a >= self.of_b else self.error_of_b


def as_percent(retention: float) -> str:
    """A retention for people, between "0.0 %" and "100.0 %".

    It may exceed 1, since a descendant may have strengthened what its ancestor learned.
    """
    return f"{100 * min(max(retention, 0.0), 1.0):.1f} %"


def measure_retention(
    a: Relations,
    b: Relations,
    networks: tuple[Network, Network],
    matching: UnitMatching,
    widths: tuple[int, int] = (0, 0),
) -> Retention | None:
    """The retentions of one pair of networks, both ways.

    Args:
        a: relations of one model.
        b: relations of the other.
        networks: the network of A and that of B.
        matching: which units of these networks correspond.
        widths: of both residual streams; 0 where one is not known, and what was learned neither.

    Returns:
        None where fewer than MIN_UNITS corresponding units are in both samples, where only one
        network is gated, or where the cosines do not correlate.
    """
    i, j = a.find(*networks[0]), b.find(*networks[1])
    if i is None or j is None:
        return None
    in_a, in_b = matching.positions_in(a.units_of(i), b.units_of(j))
    x, y = a.of_network(i), b.of_network(j)
    if len(in_a) < MIN_UNITS or len(x) != len(y):
        return None
    leading_x, leading_y = _leading(a, i, x, in_a), _leading(b, j, y, in_b)
    x, y = x[:, in_a][..., in_a], y[:, in_b][..., in_b]
    if len(x) == GATED:
        signs = _signs(x, y)
        y = y * signs[:, :, None, None] * signs
        leading_y = leading_y[0], leading_y[1] * signs.flatten()[:, None]
    x, y = (cosines.flatten(2).flatten(0, 1) for cosines in (x, y))
    inner = float((x * y).sum())
    if inner <= 0:
        return None
    groups = (torch.arange(len(in_a)) % GROUPS).repeat(len(x) // len(in_a))
    sums = _retention_sums(leading_x, x, y, groups), _retention_sums(leading_y, y, x, groups)
    everything = torch.ones(GROUPS, GROUPS, dtype=torch.float64)
    of_a, of_b = (_ratio(part, everything) for part in sums)
    without = torch.stack([everything.clone() for _ in range(GROUPS)])
    for group in range(GROUPS):
        without[group, group] = without[group, :, group] = 0
    draws_a, draws_b = (_ratio(part[:, None], without) for part in sums)
    errors = [_jackknife_error(draws) for draws in (draws_a, draws_b, draws_a - draws_b)]
    parts = [part[2:] for part in sums]
    further = [float(_ratio(part, everything)) for part in parts]
    errors += [_jackknife_error(_ratio(part[:, None], without)) for part in parts]
    learned = [
        1 - _random_spectrum(len(x), width) / float(leading[0][1:].abs().sum()) if width else 0.0
        for leading, width in zip((leading_x, leading_y), widths, strict=True)
    ]
    return Retention(
        of_a=float(of_a),
        of_b=float(of_b),
        carried=inner / float(x.norm() * y.norm()),
        error_of_a=errors[0],
        error_of_b=errors[1],
        error_of_difference=errors[2],
        further_a=further[0],
        further_b=further[1],
        error_of_further_a=errors[3],
        error_of_further_b=errors[4],
        learned_a=learned[0],
        learned_b=learned[1],
        roles=len(a.of_network(i)),
    )


def mean_retention(parts: Sequence[Retention]) -> Retention | None:
    """The mean of some retentions, whose errors are independent; None of an empty sequence."""
    if not parts:
        return None
    means = {
        field.name: sum(getattr(part, field.name) for part in parts) / len(parts)
        for field in fields(Retention)
        if field.name != "roles"
    }
    for name in (name for name in means if name.startswith("error")):
        means[name] = math.hypot(*(getattr(part, name) for part in parts)) / len(parts)
    return Retention(**means, roles=min(part.roles for part in parts))


def _retention_sums(leading: Spectrum, x: Tensor, y: Tensor, groups: Tensor) -> Tensor:
    """The six sums of which a retention of X in Y consists, by pairs of groups of units.

    kept = first / second and carried = third / fourth, each summed over all pairs of groups; what
    is kept of the leading directions after the first is fifth / sixth.

    Args:
        leading: the leading eigenvalues and eigenvectors of X.
        x: cosines of X, (n, n), zero on the diagonal.
        y: likewise of Y.
        groups: the group of each of the n vectors.

    Returns:
        (6, GROUPS, GROUPS) float64.
    """
    values, vectors = leading
    learned = (vectors * values.sign()) @ vectors.T
    rest = x - (vectors * values) @ vectors.T
    members = torch.nn.functional.one_hot(groups, GROUPS).to(x.dtype)
    further = (vectors[:, 1:] * values[1:].sign()) @ vectors[:, 1:].T
    products = (learned * y, learned * x, rest * y, rest * x, further * y, further * x)
    return torch.stack([members.T @ product @ members for product in products]).double()


def _ratio(sums: Tensor, weights: Tensor) -> Tensor:
    """Retention from the first four of `_retention_sums` (6, ..., GROUPS, GROUPS).

    Args:
        sums: all six, or the last four for the directions after the first.
        weights: of the pairs of groups.
    """
    total = (sums * weights).sum(dim=(-2, -1))
    first, second, third, fourth = total[:4] if len(total) == 6 else (*total[2:], *total[:2])
    carried: Tensor = third / fourth
    ratio: Tensor = first / second / carried.clamp(min=1e-6)
    return ratio


def _jackknife_error(draws: Tensor) -> float:
    """Standard error of a figure from its values without one group each (Tukey, 1958)."""
    n = len(draws)
    return float(((n - 1) / n * (draws - draws.mean()).square().sum()).sqrt())


@lru_cache(maxsize=64)
def _random_spectrum(vectors: int, width: int) -> float:
    """Sum of the LEADING absolute eigenvalues but the first of the cosines of random vectors."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(vectors, width, generator=generator)
    rows /= rows.norm(dim=1, keepdim=True)
    cosines = (rows @ rows.T).fill_diagonal_(0)
    values = torch.linalg.eigvalsh(cosines).abs()
    return float(values.sort(descending=True).values[1:LEADING].sum())


def _signs(x: Tensor, y: Tensor) -> Tensor:
    """Signs (3, units) of Y's vectors: -1 for up and down where that fits X's gates better.

    Negating both does not change what a gated network computes, so their sign is arbitrary.
    """
    agree = (x[0, :, 1:] * y[0, :, 1:]).sum(dim=(0, 1))
    return torch.stack([torch.ones_like(agree), *[torch.where(agree < 0, -1.0, 1.0)] * 2])


def _leading(relations: Relations, network: int, cosines: Tensor, chosen: Tensor) -> Spectrum:
    """The leading eigenvalues (LEADING,) and eigenvectors (roles * units, LEADING) of some units.

    Those of a whole sample are cached for the next pair; they are reordered as `chosen` is.

    Args:
        relations: the relations that the network belongs to.
        network: index of the network.
        cosines: of its whole sample, (roles, units, roles, units).
        chosen: positions of the units in the sample, each once.
    """
    if len(chosen) < cosines.shape[1]:
        return _decompose(cosines[:, chosen][..., chosen])
    spectra = _CACHE.setdefault(relations, {})
    if network not in spectra:
        spectra[network] = _decompose(cosines)
    values, vectors = spectra[network]
    by_unit = vectors.view(len(cosines), -1, vectors.shape[1])
    return values, by_unit[:, chosen].flatten(0, 1)


def _decompose(cosines: Tensor) -> Spectrum:
    values, vectors = torch.linalg.eigh(cosines.flatten(2).flatten(0, 1))
    strongest = values.abs().argsort(descending=True)[:LEADING]
    return values[strongest], vectors[:, strongest]
