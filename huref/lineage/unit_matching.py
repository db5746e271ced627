"""Matching the hidden units of two models by what they compute.

The hidden units of a feed-forward network have no natural order: after training from another
initialisation every order is equally likely. Units are matched by their features in token space
(see `huref.invariants.unit_features`), never by their index, so that indices of matched units can
be tested (docs/maths.md, Statistics).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 2048  # units of A compared at once, to bound the memory of the similarities
GATE, UP, DOWN = 0, 1, 2


@dataclass(frozen=True)
class UnitMatching:
    """Units of A and B that are each other's nearest neighbours.

    Attributes:
        a: indices of A's matched units, (k,) int64, ascending.
        b: the index in B of each one's partner, (k,) int64; no index occurs twice.
        of: number of units of the smaller network.
        b_size: number of units of B.
    """

    a: Tensor
    b: Tensor
    of: int
    b_size: int

    @property
    def same_index(self) -> int:
        """Number of units that are matched to the unit of the same index."""
        return int((self.a == self.b).sum())

    @classmethod
    def identity(cls, units: Tensor, of: int, b_size: int) -> "UnitMatching":
        """Some units of A, each matched to the unit of B with the same index."""
        return cls(units, units, of, b_size)

    def positions_in(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of matched units in a sample of A's units and in one of B's.

        Args:
            a: indices of the sampled units of A, each once.
            b: likewise of B.

        Returns:
            Positions in `a` and in `b` of the units whose partner is sampled too, (n,) each.
        """
        position = {unit: i for i, unit in enumerate(b.tolist())}
        partner = dict(zip(self.a.tolist(), self.b.tolist(), strict=True))
        both = [
            (i, position[partner[unit]])
            for i, unit in enumerate(a.tolist())
            if partner.get(unit) in position
        ]
        in_a, in_b = torch.tensor(both, dtype=torch.int64).view(-1, 2).T
        return in_a, in_b


def match_units(a: Tensor, b: Tensor, *, signed: bool = True) -> UnitMatching:
    """Match units by mutual nearest neighbours in cosine similarity.

    Args:
        a: features of A's units, (units of A, features).
        b: features of B's units, (units of B, features), in the same order of features.
        signed: False for features whose sign is arbitrary, as that of up and down projections is;
            then the absolute cosine counts.
    """
    x, y = (_unit_rows(features) for features in (a, b))

    def similarity(rows: slice) -> Tensor:
        cosines: Tensor = x[rows] @ y.T
        return cosines if signed else cosines.abs()

    return mutual_nearest(similarity, x.any(dim=1), y.any(dim=1))


def match_networks(a: Tensor, b: Tensor) -> UnitMatching:
    """Match units by gate, up and down together; up and down have one sign in common.

    Args:
        a: features (units of A, 3, r) of one network, gate, up and down.
        b: likewise of B.
    """
    (a_gate, a_rest), (b_gate, b_rest) = (_parts(features) for features in (a, b))

    def similarity(rows: slice) -> Tensor:
        return a_gate[rows] @ b_gate.T + (a_rest[rows] @ b_rest.T).abs()

    return mutual_nearest(similarity, a_rest.any(dim=1), b_rest.any(dim=1))


def match_signed(fixed: tuple[Tensor, Tensor], signed: tuple[Tensor, Tensor]) -> UnitMatching:
    """Match units by two groups of numbers together, one of which has an arbitrary sign.

    Args:
        fixed: numbers of A's and of B's units, (units, n), whose signs are determined.
        signed: likewise (units, k); a unit's numbers have one arbitrary sign in common.
    """
    in_a, in_b = (torch.cat(parts, dim=1).any(dim=1) for parts in zip(fixed, signed, strict=True))
    return mutual_nearest(signed_cosines(fixed, signed), in_a, in_b)


def signed_cosines(fixed: Sequence[Tensor], signed: Sequence[Tensor]) -> Callable[[slice], Tensor]:
    """The cosines of some of A's units with all of B's; arguments as for `match_signed`."""
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

    return similarity


def match_twice(a: Tensor, b: Tensor) -> tuple[UnitMatching, UnitMatching]:
    """Match units by what they read, and independently by what they write.

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
    """Number of units to which two independent matchings of the same models give one partner.

    It does not change when hidden units are permuted, unlike the count of the order test. Its null
    distribution is not exact and has to be calibrated on independent models.
    """
    return len(agreeing(by_input, by_output)[0])


def agreeing(by_input: UnitMatching, by_output: UnitMatching) -> tuple[Tensor, Tensor]:
    """The units of which `agreement` gives the number: indices in A and in B, (n,) int64 each."""
    partner = dict(zip(by_input.a.tolist(), by_input.b.tolist(), strict=True))
    pairs = zip(by_output.a.tolist(), by_output.b.tolist(), strict=True)
    both = [(a, b) for a, b in pairs if partner.get(a) == b]
    in_a, in_b = torch.tensor(both, dtype=torch.int64).view(-1, 2).T
    return in_a, in_b


def _parts(features: Tensor) -> tuple[Tensor, Tensor]:
    """Gates of norm 1, (units, r); up beside down, each of norm 1/sqrt 2, (units, 2r)."""
    gate, up, down = (_unit_rows(features[:, role]) for role in (GATE, UP, DOWN))
    return gate, torch.cat([up, down], dim=1) / math.sqrt(2)


def _unit_rows(features: Tensor) -> Tensor:
    rows = features.float()
    normalised: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return normalised


def mutual_nearest(
    similarity: Callable[[slice], Tensor], in_a: Tensor, in_b: Tensor
) -> UnitMatching:
    """Mutual nearest neighbours under a similarity that is computed a few rows at a time.

    Args:
        similarity: (rows, units of B) for a slice of A's units.
        in_a: which units of A are not zero; a zero unit is matched to none.
        in_b: likewise of B.
    """
    to_b = torch.empty(len(in_a), dtype=torch.int64)
    best_for_b = torch.full((len(in_b),), -math.inf)
    to_a = torch.zeros(len(in_b), dtype=torch.int64)
    for start in range(0, len(in_a), CHUNK):
        chunk = similarity(slice(start, start + CHUNK))
        # numpy's argmax is several times as fast as torch's on a few hundred values.
        to_b[start : start + CHUNK] = torch.from_numpy(chunk.numpy().argmax(axis=1))
        values, rows = chunk.amax(dim=0), torch.from_numpy(chunk.numpy().argmax(axis=0))
        better = values > best_for_b
        best_for_b[better] = values[better]
        to_a[better] = rows[better] + start
    own = torch.arange(len(in_a))
    mutual = (to_a[to_b] == own) & in_a & in_b[to_b]
    return UnitMatching(own[mutual], to_b[mutual], min(len(in_a), len(in_b)), len(in_b))
