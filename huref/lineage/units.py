"""Do two models' hidden units correspond? Matching, and an exact test of their order.

A feed-forward network's hidden units have no natural order: training from another initialisation
would put them in any order alike. So if the units of B, matched to those of A by what they do,
also sit at the same indices, the two share an origin, and how surprising that is follows from
counting permutations alone.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 2048  # units of A compared at once, so that h x h similarities are never held whole


@dataclass(frozen=True)
class Matching:
    """Units of A and B that are each other's nearest neighbours.

    Attributes:
        a: indices of A's matched units, (k,) int64, ascending.
        b: the index in B of each one's partner, (k,) int64; no index occurs twice.
        of: number of units of the smaller model.
        size: number of units of B.
    """

    a: Tensor
    b: Tensor
    of: int
    size: int

    @property
    def kept(self) -> int:
        """How many units are matched to their own index."""
        return int((self.a == self.b).sum())


def match_units(a: Tensor, b: Tensor, *, signed: bool = True) -> Matching:
    """Match units by mutual nearest neighbours in cosine similarity.

    Args:
        a: features of A's units, (units of A, features).
        b: features of B's units, (units of B, features); the features must mean the same.
        signed: False where a unit's sign is a matter of convention, as that of up and down
            projections is; then the absolute cosine counts.
    """
    x, y = (_unit_rows(features) for features in (a, b))
    to_b = torch.empty(len(x), dtype=torch.int64)
    best_for_b = torch.full((len(y),), -math.inf)
    to_a = torch.zeros(len(y), dtype=torch.int64)
    for start in range(0, len(x), CHUNK):
        similarity = x[start : start + CHUNK] @ y.T  # (chunk, units of B)
        if not signed:
            similarity = similarity.abs()
        to_b[start : start + CHUNK] = similarity.argmax(dim=1)
        values, rows = similarity.max(dim=0)
        better = values > best_for_b
        best_for_b[better] = values[better]
        to_a[better] = rows[better] + start
    own = torch.arange(len(x))
    # A unit without any features is nobody's neighbour.
    mutual = (to_a[to_b] == own) & x.any(dim=1) & y.any(dim=1)[to_b]
    return Matching(own[mutual], to_b[mutual], min(len(x), len(y)), len(y))


def _unit_rows(features: Tensor) -> Tensor:
    rows = features.float()
    normalised: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return normalised


def order_log10_p(matching: Matching) -> float:
    """log10 of the exact probability of so many kept indices by chance, at most 0.

    Under the null the units of B could be numbered in any of n! ways alike. Of k matched pairs
    whose index exists in B, the number X that fall on their own index has factorial moments
    k!/(k-j)! (n-j)!/n!, so by inclusion and exclusion

        P(X >= t) = sum over j >= t of (-1)^(j-t) C(j-1, t-1) C(k, j) (n-j)!/n!

    whose terms fall off like 1/(j-t)!. The matching must not itself look at indices.
    """
    t, n = matching.kept, matching.size
    k = int((matching.a < n).sum())
    if t == 0:
        return 0.0
    term = 1.0  # relative to the first, which is taken as a logarithm
    total = 0.0
    for j in range(t, k + 1):
        total += term
        if j == k or abs(term) < 1e-17:
            break
        term *= -(j / (j + 1 - t)) * (k - j) / ((j + 1) * (n - j))
    first = (
        math.lgamma(k + 1)
        - math.lgamma(t + 1)
        - math.lgamma(k - t + 1)
        + math.lgamma(n - t + 1)
        - math.lgamma(n + 1)
    )
    return min((first + math.log(total)) / math.log(10), 0.0)


def agreement(by_input: Matching, by_output: Matching) -> int:
    """On how many units two independent matchings of the same models agree.

    Survives a permutation of the hidden units, which the order test does not. Its null is not
    exact and has to be calibrated on independent models.
    """
    partner = dict(zip(by_input.a.tolist(), by_input.b.tolist(), strict=True))
    pairs = zip(by_output.a.tolist(), by_output.b.tolist(), strict=True)
    return sum(partner.get(a) == b for a, b in pairs)
