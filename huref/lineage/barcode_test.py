"""The unit tests by barcodes, which need no tokens: for vocabularies with too little in common.

Barcodes (see `huref.invariants.barcodes`) identify hidden units, so the order test on them is as
exact as on token features. Where all units have a barcode, two matchings by disjoint numbers, those
of attention and those of the feed-forward network, give an agreement test (docs/maths.md,
Statistics).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from huref.invariants.barcodes import FLIPS, Barcodes, sampled_units
from huref.invariants.record import Record
from huref.lineage.correspondence import (
    SIGNIFICANT,
    TESTS,
    Correspondence,
    summarise,
    widths_of,
)
from huref.lineage.evidence import UnitCount
from huref.lineage.order import (
    agreement_log10_p,
    increase_log10_p,
    longest_increase,
    longest_increasing,
    order_log10_p,
)
from huref.lineage.retention import measure_retention
from huref.lineage.unit_matching import (
    UnitMatching,
    agreeing,
    agreement,
    match_signed,
    signed_cosines,
)

ATTENTION_NUMBERS = range(3, 21)  # the numbers of a barcode that come from attention
LARGE = 2**28  # pairs of units of two models, from which a sample is looked at first
SAMPLE = 2048  # units of it
LEAST_OF_EACH = 64  # of every network
ROWS = 64  # of units that are held against all others at once


def compare_barcodes(
    a: Record, b: Record, mapped: Sequence[tuple[int, int]] = ()
) -> Correspondence | None:
    """Test whether units of two models correspond, each of the recipe's blocks with every other.

    Args:
        a: record of one model.
        b: record of the other.
        mapped: corresponding blocks (of a, of b) of a layer map, to be tested as well.

    Returns:
        The best test, corrected for all that were possible, or None where a record has no
        barcodes, or networks differ in size and only some of their units have barcodes.
    """
    x, y = a.barcodes, b.barcodes
    if x is None or y is None:
        return None
    possible = list(comparable_networks(x, y))
    blocks = {*product(a.layers or (), b.layers or ()), *mapped}
    pairs = [(i, j) for i, j in possible if (x.key(i)[0], y.key(j)[0]) in blocks]
    if not pairs:
        return None
    tests = []
    for i, j in pairs:
        test, matching = compare_networks(x, y, i, j)
        if test.log10_p <= SIGNIFICANT and a.relations is not None and b.relations is not None:
            networks = (x.key(i), y.key(j))
            retention = measure_retention(
                a.relations, b.relations, networks, matching, widths_of(a, b)
            )
            test = replace(test, retention=retention)
        tests.append(replace(test, blocks=((x.key(i)[0], y.key(j)[0]),)))
    return summarise(tests, math.log10(TESTS * len(possible)))


def comparable_networks(a: Barcodes, b: Barcodes) -> Iterator[tuple[int, int]]:
    """Pairs of networks that are of one size, or have barcodes of all their units."""
    for i, j in product(range(len(a.networks)), range(len(b.networks))):
        if a.networks[i, 2] == b.networks[j, 2] or (a.is_complete(i) and b.is_complete(j)):
            yield i, j


def hinted_networks(a: Barcodes, b: Barcodes) -> set[tuple[int, int]] | None:
    """Networks of A and of B that are worth a test; None for all, in models of few units.

    A sample of A's units is held against all units of B, of all networks. A hint is a unit whose
    nearest one has its index, or is the nearest by attention's numbers and by the others. By chance
    a few units are; where one in a hundred corresponds, twenty are.
    """
    mine, theirs = ([x.of_network(i).float() for i in range(len(x.networks))] for x in (a, b))
    if not mine or not theirs or sum(map(len, mine)) * sum(map(len, theirs)) < LARGE:
        return None
    each = max(SAMPLE // len(mine), LEAST_OF_EACH)
    rows = [torch.linspace(0, len(x) - 1, min(each, len(x))).long() for x in mine]
    x, y = torch.cat([m[r] for m, r in zip(mine, rows, strict=True)]), torch.cat(theirs)
    from_a = torch.cat([torch.full((len(r),), i) for i, r in enumerate(rows)])
    from_b = torch.cat([torch.full((len(t),), j) for j, t in enumerate(theirs)])
    index_a = torch.cat([a.units_of(i)[r] for i, r in enumerate(rows)])
    index_b = torch.cat([b.units_of(j) for j in range(len(theirs))])
    nearest, by_attention, by_others = (
        _nearest(x, y, numbers) for numbers in _groups_of_numbers(x.shape[1])
    )
    same = index_a == index_b[nearest]
    agreed = by_attention == by_others
    hints = [(from_a[same], from_b[nearest[same]]), (from_a[agreed], from_b[by_others[agreed]])]
    return {pair for i, j in hints for pair in zip(i.tolist(), j.tolist(), strict=True)}


def corresponding_units(a: Barcodes, b: Barcodes, i: int, j: int) -> tuple[Tensor, Tensor]:
    """Units of network i of A and j of B that correspond beyond chance, indices in both, (n,) each.

    Those that keep their index or their order when matched by barcodes, or on which two matchings
    agree; whichever are more. All units of both networks have barcodes.
    """
    x, y = a.of_network(i).float(), b.of_network(j).float()
    everything, attention, others = _groups_of_numbers(x.shape[1])
    matching = _match(x, y, everything)
    kept = max(
        matching.a == matching.b, longest_increasing(matching.b), key=lambda some: int(some.sum())
    )
    agreed = agreeing(_match(x, y, attention), _match(x, y, others))
    if len(agreed[0]) > int(kept.sum()):
        return agreed
    return matching.a[kept], matching.b[kept]


def compare_networks(
    a: Barcodes, b: Barcodes, i: int, j: int
) -> tuple[Correspondence, UnitMatching]:
    """The better test of network i of A and network j of B, not yet corrected, and the matching."""
    x, y, a_units, b_units = _select_units(a, b, i, j)
    layer, of = int(a.networks[i, 0]), min(len(x), len(y))
    everything, attention, others = _groups_of_numbers(x.shape[1])
    by_row = _match(x, y, everything)
    matching = UnitMatching(a_units[by_row.a], b_units[by_row.b], of, int(b.networks[j, 2]))
    same_size = bool(a.networks[i, 2] == b.networks[j, 2])
    if same_size:
        count, log10_p, how = by_row.same_index, order_log10_p(by_row), "keep their index"
    else:
        count, how = longest_increase(by_row.b), "keep their order"
        log10_p = increase_log10_p(count, len(by_row.b))
    units = UnitCount(count, of, layer)
    test = Correspondence(units, log10_p, "order", f"{how} when matched by barcodes")
    if log10_p <= SIGNIFICANT and same_size:
        return test, UnitMatching.identity(a_units, of, matching.b_size)
    if log10_p <= SIGNIFICANT or not (a.is_complete(i) and b.is_complete(j)):
        return test, matching
    agreements = agreement(_match(x, y, attention), _match(x, y, others))
    test = Correspondence(
        UnitCount(agreements, of, layer),
        agreement_log10_p(agreements, of),
        "agreement",
        "agree in two matchings by barcodes",
    )
    return test, matching


def _select_units(
    a: Barcodes, b: Barcodes, i: int, j: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Barcodes of two networks, (n, NUMBERS) each, and the indices of their units, (n,) each.

    All that are known, or those of `sampled_units` where one of two networks of the same size has
    no more.
    """
    x, y = a.of_network(i).float(), b.of_network(j).float()
    a_units, b_units = a.units_of(i), b.units_of(j)
    if len(x) != len(y) and a.networks[i, 2] == b.networks[j, 2]:
        sample = sampled_units(int(a.networks[i, 2]))
        x, y = (codes if len(codes) == len(sample) else codes[sample] for codes in (x, y))
        a_units = b_units = sample
    return x, y, a_units, b_units


def _groups_of_numbers(count: int) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """All numbers of a barcode, those of attention, and the others."""
    others = [n for n in range(count) if n not in ATTENTION_NUMBERS]
    return range(count), ATTENTION_NUMBERS, others


def _nearest(x: Tensor, y: Tensor, numbers: Sequence[int]) -> Tensor:
    """The unit of y that is nearest to each of x by some of a barcode's numbers, (n,)."""
    fixed, signed = _split_numbers(numbers)
    parts = [[codes[:, group] for codes in (x, y)] for group in (fixed, signed)]
    cosines = signed_cosines(*parts)
    starts = range(0, len(x), ROWS)
    return torch.cat([cosines(slice(at, at + ROWS)).argmax(dim=1) for at in starts])


def _split_numbers(numbers: Sequence[int]) -> tuple[list[int], list[int]]:
    """Those whose signs are determined, and those that have one arbitrary sign in common."""
    return [n for n in numbers if not FLIPS[n]], [n for n in numbers if FLIPS[n]]


def _match(x: Tensor, y: Tensor, numbers: Sequence[int]) -> UnitMatching:
    """Match by some of a barcode's numbers; those that flip have one arbitrary sign in common."""
    fixed, signed = _split_numbers(numbers)
    return match_signed((x[:, fixed], y[:, fixed]), (x[:, signed], y[:, signed]))
