"""The unit tests without tokens, by barcodes: for vocabularies that have too little in common.

Barcodes (see `huref.invariants.barcodes`) say which unit is which, so the order test is as exact
as with token features; two matchings by disjoint numbers, those of attention and those of the
feed-forward network, give an agreement test where all units have one. How alike the barcodes of
corresponding units are tells descent from a shared initialisation (see `lineage.likeness`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

from torch import Tensor

from huref.invariants.barcodes import FLIPS, Barcodes, sampled_units
from huref.invariants.record import Record
from huref.lineage.correspondence import SIGNIFICANT, TESTS, Correspondence, summarise
from huref.lineage.evidence import UnitCount
from huref.lineage.likeness import mean_likeness
from huref.lineage.order import (
    agreement_log10_p,
    increase_log10_p,
    longest_increase,
    order_log10_p,
)
from huref.lineage.retention import measure_retention
from huref.lineage.unit_matching import UnitMatching, agreement, match_signed

IN_ATTENTION = range(3, 21)  # which numbers come from attention


def compare_barcodes(
    a: Record, b: Record, found: Sequence[tuple[int, int]] = ()
) -> Correspondence | None:
    """Test whether units of two models correspond, each of the recipe's blocks with every other.

    Args:
        a: record of one model.
        b: record of the other.
        found: further pairs of blocks, which a search among all blocks came up with.

    Returns:
        The best test, corrected for all that were possible, or None where a record has no
        barcodes, or networks differ in size and only some of their units have barcodes.
    """
    mine, theirs = a.barcodes, b.barcodes
    if mine is None or theirs is None:
        return None
    possible = list(comparable(mine, theirs))
    blocks = {*product(a.layers or (), b.layers or ()), *found}
    pairs = [(i, j) for i, j in possible if (mine.key(i)[0], theirs.key(j)[0]) in blocks]
    if not pairs:
        return None
    tried = []
    for i, j in pairs:
        tested, matching = test_barcodes(mine, theirs, i, j)
        if tested.log10_p <= SIGNIFICANT and a.relations is not None and b.relations is not None:
            networks = (mine.key(i), theirs.key(j))
            retention = measure_retention(a.relations, b.relations, networks, matching)
            tested = replace(tested, retention=retention)
        tried.append(tested)
    return summarise(tried, math.log10(TESTS * len(possible)))


def comparable(a: Barcodes, b: Barcodes) -> Iterator[tuple[int, int]]:
    """Pairs of networks whose units can be compared: of one size, or with barcodes of all units."""
    for i, j in product(range(len(a.networks)), range(len(b.networks))):
        if a.networks[i, 2] == b.networks[j, 2] or (_is_whole(a, i) and _is_whole(b, j)):
            yield i, j


def _is_whole(barcodes: Barcodes, network: int) -> bool:
    return bool(barcodes.networks[network, 2] == barcodes.networks[network, 3])


def test_barcodes(a: Barcodes, b: Barcodes, i: int, j: int) -> tuple[Correspondence, UnitMatching]:
    """The better test of one pair of networks, not yet corrected, and which unit is which."""
    x, y, rows, columns = _same_units(a, b, i, j)
    layer, of = int(a.networks[i, 0]), min(len(x), len(y))
    by_place = _match(x, y, range(x.shape[1]))
    matching = UnitMatching(rows[by_place.a], columns[by_place.b], of, int(b.networks[j, 2]))
    if a.networks[i, 2] == b.networks[j, 2]:
        count, log10_p, how = by_place.kept, order_log10_p(by_place), "kept their place"
        likeness = mean_likeness(x, y)
    else:
        count, how = longest_increase(by_place.b), "kept their order"
        log10_p = increase_log10_p(count, len(by_place.b))
        likeness = mean_likeness(x[by_place.a], y[by_place.b])
    how += " by their barcodes"
    units = UnitCount(count, of, layer)
    tested = Correspondence(units, log10_p, "order", how, likeness=likeness)
    if log10_p <= SIGNIFICANT and a.networks[i, 2] == b.networks[j, 2]:
        return tested, UnitMatching.in_place(rows, of, matching.size)
    if log10_p <= SIGNIFICANT or not (_is_whole(a, i) and _is_whole(b, j)):
        return tested, matching
    rest = [number for number in range(x.shape[1]) if number not in IN_ATTENTION]
    agreements = agreement(_match(x, y, IN_ATTENTION), _match(x, y, rest))
    tested = Correspondence(
        UnitCount(agreements, of, layer),
        agreement_log10_p(agreements, of),
        "agreement",
        "were found twice by their barcodes",
        likeness=mean_likeness(x[by_place.a], y[by_place.b]),
    )
    return tested, matching


def _same_units(a: Barcodes, b: Barcodes, i: int, j: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Barcodes of two networks, (n, NUMBERS) each, and which units they are of, (n,) each.

    Of all units where both have all, or the networks differ in size, else of the sample.
    """
    x, y = a.of_network(i).float(), b.of_network(j).float()
    rows, columns = a.units_of(i), b.units_of(j)
    if len(x) != len(y) and a.networks[i, 2] == b.networks[j, 2]:
        sample = sampled_units(int(a.networks[i, 2]))
        x, y = (codes if len(codes) == len(sample) else codes[sample] for codes in (x, y))
        rows = columns = sample
    return x, y, rows, columns


def _match(x: Tensor, y: Tensor, numbers: Sequence[int]) -> UnitMatching:
    """Match by some of the numbers, those with a sign by convention under one common sign."""
    fixed = [n for n in numbers if not FLIPS[n]]
    signed = [n for n in numbers if FLIPS[n]]
    return match_signed((x[:, fixed], y[:, fixed]), (x[:, signed], y[:, signed]))
