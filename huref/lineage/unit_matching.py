"""Which hidden unit of one model is which of another: matching by what units do.

A feed-forward network's hidden units have no natural order: training from another initialisation
would put them in any order alike. Units are matched by their features in token space (see
`huref.invariants.unit_features`), never by their index, so that what a matching says of indices
can be tested.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 2048  # units of A compared at once, so that h x h similarities are never held whole
GATE, UP, DOWN = 0, 1, 2


@dataclass(frozen=True)
class UnitMatching:
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

    @classmethod
    def in_place(cls, units: Tensor, of: int, size: int) -> "UnitMatching":
        """Each of some units with the one of its own index, as after a passed order test."""
        return cls(units, units, of, size)

    def among(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Where partners stand in a choice of A's units and in one of B's.

        Args:
            a: indices of some of A's units, each once.
            b: likewise of B.

        Returns:
            Positions in `a` and in `b` of those whose partner was chosen as well, (n,) each.
        """
        position = {unit: i for i, unit in enumerate(b.tolist())}
        partner = dict(zip(self.a.tolist(), self.b.tolist(), strict=True))
        both = [
            (i, position[partner[unit]])
            for i, unit in enumerate(a.tolist())
            if partner.get(unit) in position
        ]
        mine, theirs = torch.tensor(both, dtype=torch.int64).view(-1, 2).T
        return mine, theirs


def match_units(a: Tensor, b: Tensor, *, signed: bool = True) -> UnitMatching:
    """Match units by mutual nearest neighbours in cosine similarity.

    Args:
        a: features of A's units, (units of A, features).
        b: features of B's units, (units of B, features); the features must mean the same.
        signed: False where a unit's sign is a matter of convention, as that of up and down
            projections is; then the absolute cosine counts.
    """
    x, y = (_unit_rows(features) for features in (a, b))

    def similarity(rows: slice) -> Tensor:
        cosines: Tensor = x[rows] @ y.T
        return cosines if signed else cosines.abs()

    return _mutual(similarity, x.any(dim=1), y.any(dim=1))


def match_networks(a: Tensor, b: Tensor) -> UnitMatching:
    """Match units by all that they do at once: gate, and up and down under one common sign.

    Args:
        a: features (units of A, 3, r) of one network, gate, up and down.
        b: likewise of B.
    """
    (gates, writes), (others, other_writes) = (_parts(features) for features in (a, b))

    def similarity(rows: slice) -> Tensor:
        return gates[rows] @ others.T + (writes[rows] @ other_writes.T).abs()

    return _mutual(similarity, writes.any(dim=1), other_writes.any(dim=1))


def match_signed(fixed: tuple[Tensor, Tensor], signed: tuple[Tensor, Tensor]) -> UnitMatching:
    """Match units by two groups of numbers at once, one of which has a sign by convention.

    Args:
        fixed: numbers of A's and of B's units, (units, n), whose signs mean something.
        signed: likewise (units, k), all of a unit's under one common sign.
    """
    scales = [
        torch.cat(parts, dim=1).norm(dim=1, keepdim=True).clamp(min=1e-30)
        for parts in zip(fixed, signed, strict=True)
    ]
    (x, y), (u, v) = (
        [part / scale for part, scale in zip(parts, scales, strict=True)]
        for parts in (fixed, signed)
    )

    def similarity(rows: slice) -> Tensor:
        cosines: Tensor = x[rows] @ y.T + (u[rows] @ v.T).abs()
        return cosines

    in_a, in_b = (torch.cat(parts, dim=1).any(dim=1) for parts in zip(fixed, signed, strict=True))
    return _mutual(similarity, in_a, in_b)


def match_twice(a: Tensor, b: Tensor) -> tuple[UnitMatching, UnitMatching]:
    """Match units by what they read and, independently, by what they write.

    The first matching uses the gate, or up where neither has one; the second uses the rest.
    Arguments as for `match_networks`.
    """
    x, y = a.float(), b.float()
    if x[:, GATE].any() and y[:, GATE].any():
        by_gate = match_units(x[:, GATE], y[:, GATE])
        return by_gate, match_units(_parts(x)[1], _parts(y)[1], signed=False)
    by_up = match_units(x[:, UP], y[:, UP], signed=False)
    return by_up, match_units(x[:, DOWN], y[:, DOWN], signed=False)


def agreement(by_input: UnitMatching, by_output: UnitMatching) -> int:
    """On how many units two independent matchings of the same models agree.

    Survives a permutation of the hidden units, which the order test does not. Its null is not
    exact and has to be calibrated on independent models.
    """
    partner = dict(zip(by_input.a.tolist(), by_input.b.tolist(), strict=True))
    pairs = zip(by_output.a.tolist(), by_output.b.tolist(), strict=True)
    return sum(partner.get(a) == b for a, b in pairs)


def _parts(features: Tensor) -> tuple[Tensor, Tensor]:
    """Gates of length 1, (units, r), and up beside down, each of length 1/sqrt 2, (units, 2r)."""
    gate, up, down = (_unit_rows(features[:, role]) for role in (GATE, UP, DOWN))
    return gate, torch.cat([up, down], dim=1) / math.sqrt(2)


def _unit_rows(features: Tensor) -> Tensor:
    rows = features.float()
    normalised: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return normalised


def _mutual(similarity: Callable[[slice], Tensor], in_a: Tensor, in_b: Tensor) -> UnitMatching:
    """Mutual nearest neighbours under a similarity that is given some rows at a time.

    Args:
        similarity: (rows, units of B) for a slice of A's units.
        in_a: which units of A do anything; one that does nothing is nobody's neighbour.
        in_b: likewise of B.
    """
    to_b = torch.empty(len(in_a), dtype=torch.int64)
    best_for_b = torch.full((len(in_b),), -math.inf)
    to_a = torch.zeros(len(in_b), dtype=torch.int64)
    for start in range(0, len(in_a), CHUNK):
        chunk = similarity(slice(start, start + CHUNK))
        # numpy finds the largest of a few hundred several times as fast.
        to_b[start : start + CHUNK] = torch.from_numpy(chunk.numpy().argmax(axis=1))
        values, rows = chunk.amax(dim=0), torch.from_numpy(chunk.numpy().argmax(axis=0))
        better = values > best_for_b
        best_for_b[better] = values[better]
        to_a[better] = rows[better] + start
    own = torch.arange(len(in_a))
    mutual = (to_a[to_b] == own) & in_a & in_b[to_b]
    return UnitMatching(own[mutual], to_b[mutual], min(len(in_a), len(in_b)), len(in_b))
