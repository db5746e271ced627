"""The unit tests without tokens, by barcodes: for vocabularies that have too little in common.

Barcodes (see `huref.invariants.barcodes`) say which unit is which, so the order test is as exact
as with token features; two matchings by disjoint numbers, those of attention and those of the
feed-forward network, give an agreement test where all units have one. How alike the barcodes of
corresponding units are tells descent from a shared initialisation (see `lineage.likeness`).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from torch import Tensor

from huref.invariants.barcodes import FLIPS, Barcodes, sampled_units
from huref.invariants.record import Record
from huref.lineage.correspondence import SIGNIFICANT, TESTS, Correspondence
from huref.lineage.evidence import UnitCount
from huref.lineage.likeness import mean_likeness
from huref.lineage.order import (
    agreement_log10_p,
    increase_log10_p,
    longest_increase,
    order_log10_p,
)
from huref.lineage.units import Matching, agreement, match_signed

IN_ATTENTION = range(3, 21)  # which numbers come from attention


def compare_barcodes(a: Record, b: Record) -> Correspondence | None:
    """Test whether units of two models correspond, every block with every other.

    Returns:
        The best test, corrected for all that were possible, or None where a record has no
        barcodes, or networks differ in size and only some of their units have barcodes.
    """
    mine, theirs = a.barcodes, b.barcodes
    if mine is None or theirs is None:
        return None
    pairs = [
        (i, j)
        for i, j in product(range(len(mine.networks)), range(len(theirs.networks)))
        if mine.networks[i, 2] == theirs.networks[j, 2]
        or (_is_whole(mine, i) and _is_whole(theirs, j))
    ]
    if not pairs:
        return None
    correction = math.log10(TESTS * len(pairs))
    tried = [_test(mine, theirs, i, j) for i, j in pairs]
    best = min(tried, key=lambda t: t.log10_p)
    clear = [t for t in tried if t.log10_p + correction <= SIGNIFICANT]
    alike = [t.likeness for t in clear if t.likeness is not None]
    return replace(
        best,
        log10_p=min(best.log10_p + correction, 0.0),
        likeness=sum(alike) / len(alike) if alike else None,
    )


def _is_whole(barcodes: Barcodes, network: int) -> bool:
    return bool(barcodes.networks[network, 2] == barcodes.networks[network, 3])


def _test(a: Barcodes, b: Barcodes, i: int, j: int) -> Correspondence:
    """The better test of one pair of networks, not yet corrected."""
    x, y = _same_units(a, b, i, j)
    layer, of = int(a.networks[i, 0]), min(len(x), len(y))
    matching = _match(x, y, range(x.shape[1]))
    if a.networks[i, 2] == b.networks[j, 2]:
        count, log10_p, how = matching.kept, order_log10_p(matching), "kept their place"
        likeness = mean_likeness(x, y)
    else:
        count, how = longest_increase(matching.b), "kept their order"
        log10_p = increase_log10_p(count, len(matching.b))
        likeness = mean_likeness(x[matching.a], y[matching.b])
    how += " by their barcodes"
    if log10_p <= SIGNIFICANT or not (_is_whole(a, i) and _is_whole(b, j)):
        return Correspondence(UnitCount(count, of, layer), log10_p, "order", how, None, likeness)
    rest = [number for number in range(x.shape[1]) if number not in IN_ATTENTION]
    agreements = agreement(_match(x, y, IN_ATTENTION), _match(x, y, rest))
    return Correspondence(
        UnitCount(agreements, of, layer),
        agreement_log10_p(agreements, of),
        "agreement",
        "were found twice by their barcodes",
        likeness=mean_likeness(x[matching.a], y[matching.b]),
    )


def _same_units(a: Barcodes, b: Barcodes, i: int, j: int) -> tuple[Tensor, Tensor]:
    """Barcodes of the same units of two networks: all where both have all, else the sample."""
    x, y = a.of_network(i).float(), b.of_network(j).float()
    if len(x) != len(y) and a.networks[i, 2] == b.networks[j, 2]:
        sample = sampled_units(int(a.networks[i, 2]))
        x, y = (codes if len(codes) == len(sample) else codes[sample] for codes in (x, y))
    return x, y


def _match(x: Tensor, y: Tensor, numbers: Sequence[int]) -> Matching:
    """Match by some of the numbers, those with a sign by convention under one common sign."""
    fixed = [n for n in numbers if not FLIPS[n]]
    signed = [n for n in numbers if FLIPS[n]]
    return match_signed((x[:, fixed], y[:, fixed]), (x[:, signed], y[:, signed]))
