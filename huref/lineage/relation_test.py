"""The unit test by relations, which needs neither tokens nor the order of units.

A record holds the cosines between the vectors of some units of each network, the strongest among
them (`huref.invariants.relations`). No permutation of units and no renumbering of strings changes
them, and the samples of two copies have the strongest units in common. So two networks are matched
as weighted graphs: first units with similar sorted cosines, then those whose cosines with the units
that are matched so far are most alike, until nothing changes. Gates give one matching, up and down
another one. Independent models agree on next to no unit (docs/maths.md, Statistics).

Training moves the cosines: children that were trained as long and as hot as their base are not
found in this way, and neither are twins.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from huref.invariants.record import Record
from huref.invariants.relations import Relations
from huref.lineage.correspondence import SIGNIFICANT, TESTS, Correspondence, summarise, widths_of
from huref.lineage.evidence import UnitCount
from huref.lineage.order import agreement_log10_p
from huref.lineage.retention import GATED, measure_retention
from huref.lineage.unit_matching import UnitMatching, agreeing, mutual_nearest

QUANTILES = 33  # of a unit's cosines with the others
FEWEST = 16  # units of a network; fewer give no matching
MOST_ROUNDS = 12  # relatives need 2 to 6
SAMPLE = 4096  # units of A, of all networks, that are held against all of B's for a hint
ROWS = 512  # of these at once


# Quantiles of each network's units on both sides; cosines take 2 MB and are read again.
_CACHE: WeakKeyDictionary[Relations, dict[int, tuple[Tensor, Tensor]]] = WeakKeyDictionary()


def compare_relations(
    a: Record, b: Record, mapped: Sequence[tuple[int, int]] = ()
) -> Correspondence | None:
    """Test whether units of two models correspond, each of the recipe's blocks with every other.

    Args:
        a: record of one model.
        b: record of the other.
        mapped: corresponding blocks (of a, of b) of a layer map, to be tested as well.

    Returns:
        The best test, corrected for all that were possible, or None where a record has no
        relations, or no two networks have units that are alike.
    """
    x, y = a.relations, b.relations
    if x is None or y is None:
        return None
    tests = []
    for i, j in hinted_networks(x, y):
        blocks = int(x.networks[i, 0]), int(y.networks[j, 0])
        own = blocks[0] in (a.layers or ()) and blocks[1] in (b.layers or ())
        if not (own or blocks in mapped):
            continue
        test, matching = compare_networks(x, y, i, j)
        if test.log10_p <= SIGNIFICANT:
            keys = (blocks[0], int(x.networks[i, 1])), (blocks[1], int(y.networks[j, 1]))
            retention = measure_retention(x, y, keys, matching, widths_of(a, b))
            test = replace(test, retention=retention)
        tests.append(replace(test, blocks=(blocks,)))
    if not tests:
        return None
    return summarise(tests, math.log10(TESTS * len(x.networks) * len(y.networks)))


def compare_networks(
    a: Relations, b: Relations, i: int, j: int
) -> tuple[Correspondence, UnitMatching]:
    """The test of network i of A and j of B, not yet corrected, and the units that correspond."""
    in_a, in_b = corresponding_units(a, b, i, j)
    of = int(min(a.networks[i, 2], b.networks[j, 2]))
    count = UnitCount(len(in_a), of, int(a.networks[i, 0]))
    how = "relate to the others in the same way"
    log10_p = agreement_log10_p(len(in_a), of)
    matching = UnitMatching(in_a, in_b, of, int(b.networks[j, 2]))
    return Correspondence(count, log10_p, "agreement", how), matching


def corresponding_units(a: Relations, b: Relations, i: int, j: int) -> tuple[Tensor, Tensor]:
    """Units of network i of A and j of B on which both matchings agree, indices (n,) int64."""
    pair = torch.stack([a.networks[i], b.networks[j]])
    if bool(pair[0, 3] != pair[1, 3]) or int(pair[:, 2].min()) < FEWEST:
        nothing = torch.zeros(0, dtype=torch.int64)
        return nothing, nothing
    sides = zip(_cosines(a, i), _quantiles(a, i), _cosines(b, j), _quantiles(b, j), strict=True)
    in_a, in_b = agreeing(*(_match(*side) for side in sides))
    return a.units_of(i)[in_a], b.units_of(j)[in_b]


def hinted_networks(a: Relations, b: Relations) -> list[tuple[int, int]]:
    """Networks of A and of B, both gated or both not, that are worth a test.

    A hint is a unit of A to which the unit with the most similar sorted cosines is the same by
    gates and by up and down. By chance about one unit in all finds such a one.
    """
    found: set[tuple[int, int]] = set()
    for roles in set(a.networks[:, 3].tolist()) & set(b.networks[:, 3].tolist()):
        rows, columns = (
            [n for n, row in enumerate(x.networks.tolist()) if row[3] == roles and row[2] >= FEWEST]
            for x in (a, b)
        )
        if rows and columns:
            found |= _hints(a, rows, b, columns)
    return sorted(found)


def _hints(a: Relations, rows: list[int], b: Relations, columns: list[int]) -> set[tuple[int, int]]:
    """Pairs of these networks of A and of B with a hint, by at most about SAMPLE units of A."""
    each = max(SAMPLE // len(rows), FEWEST)
    shown = {n: _evenly(int(a.networks[n, 2]), each) for n in rows}
    owners = torch.cat([torch.full((len(units),), n) for n, units in shown.items()])
    others = torch.cat([torch.full((int(b.networks[n, 2]),), n) for n in columns])
    nearest = []
    for side in (0, 1):
        x = torch.cat([_quantiles(a, n)[side][units] for n, units in shown.items()])
        y = torch.cat([_quantiles(b, n)[side] for n in columns])
        x, y = _standard(x, y)
        parts = [torch.cdist(part, y).argmin(dim=1) for part in torch.split(x, ROWS)]
        nearest.append(torch.cat(parts))
    agreed = nearest[0] == nearest[1]
    return set(zip(owners[agreed].tolist(), others[nearest[0][agreed]].tolist(), strict=True))


def _evenly(units: int, count: int) -> Tensor:
    """Evenly spaced ones of some units, at most so many, (n,) int64."""
    return torch.linspace(0, units - 1, min(count, units)).long()


def _cosines(relations: Relations, network: int) -> tuple[Tensor, Tensor]:
    """What either matching sees of a network: cosines (roles, units, units), zero on the diagonal.

    Of gates, and of up and down; without a gate of up, and of down. They are absolute where the
    sign of a unit is free.
    """
    cosines = relations.of_network(network)
    own = torch.stack([cosines[role, :, role] for role in range(len(cosines))])
    return own[:1], own[1:].abs() if len(own) == GATED else own[1:]


def _quantiles(relations: Relations, network: int) -> tuple[Tensor, Tensor]:
    """Of each unit's cosines with the others, on both sides (units, roles * QUANTILES)."""
    known = _CACHE.setdefault(relations, {})
    if network not in known:
        first, second = (_sorted_cosines(part) for part in _cosines(relations, network))
        known[network] = first, second
    return known[network]


def _sorted_cosines(cosines: Tensor) -> Tensor:
    roles, units, _ = cosines.shape
    off = ~torch.eye(units, dtype=torch.bool)
    others = cosines[:, off].view(roles, units, units - 1).sort(dim=2).values
    at = torch.linspace(0, units - 2, QUANTILES)
    below = at.long()
    above = (below + 1).clamp(max=units - 2)
    quantiles = torch.lerp(others[..., below], others[..., above], at - below)
    return quantiles.permute(1, 0, 2).flatten(1)


def _match(a: Tensor, of_a: Tensor, b: Tensor, of_b: Tensor) -> UnitMatching:
    """Mutual nearest neighbours by cosines with the units that are matched already.

    Args:
        a: cosines of A, (roles, units, units).
        of_a: their quantiles.
        b: cosines of B.
        of_b: their quantiles.
    """
    x, y = _standard(of_a, of_b)
    found = _nearest(-torch.cdist(x, y))
    for _ in range(MOST_ROUNDS):
        x, y = (
            _centred(cosines[:, :, units].permute(1, 0, 2).flatten(1))
            for cosines, units in ((a, found.a), (b, found.b))
        )
        last, found = found, _nearest(x @ y.T)
        if torch.equal(last.a, found.a) and torch.equal(last.b, found.b):
            break
    return found


def _nearest(similarity: Tensor) -> UnitMatching:
    everything = (torch.ones(size, dtype=torch.bool) for size in similarity.shape)
    return mutual_nearest(lambda rows: similarity[rows], *everything)


def _standard(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Columns of both scaled by their standard deviation over both."""
    deviation = torch.cat([x, y]).std(dim=0).clamp(min=1e-9)
    return (part / deviation for part in (x, y))


def _centred(rows: Tensor) -> Tensor:
    """Rows of mean 0 and length 1."""
    return torch.nn.functional.normalize(rows - rows.mean(dim=1, keepdim=True), dim=1)
