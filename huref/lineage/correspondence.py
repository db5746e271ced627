"""The unit tests of two records: every pair of networks that could correspond, and one p-value."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from huref.invariants.barcodes import sampled_units
from huref.invariants.record import Record
from huref.invariants.unit_features import UnitFeatures
from huref.lineage.evidence import Test, UnitCount
from huref.lineage.likeness import likeness_of_matched
from huref.lineage.order import (
    agreement_log10_p,
    increase_log10_p,
    longest_increase,
    order_log10_p,
)
from huref.lineage.retention import Retention, mean_retention, measure_retention
from huref.lineage.training import Inheritance, average, measure_inheritance
from huref.lineage.unit_matching import UnitMatching, agreement, match_networks, match_twice

SIGNIFICANT = -6.0  # log10 p, after correction, from which units are said to correspond
SAMPLED = 1024  # units of a large network of A that are looked for in one of B
TESTS = 4  # order and agreement, each by token features or by barcodes


@dataclass(frozen=True)
class Correspondence:
    """What the units of two records say of a common origin.

    Attributes:
        units: the count behind the p-value.
        log10_p: multiplied by the number of tests that could have been made (Bonferroni).
        test: "order" (exact) or "agreement" (calibrated).
        how: what the counted units do, in words.
        retention: see `lineage.retention`, the mean over the pairs of networks that correspond.
        inherited: see `lineage.training`, likewise.
        likeness: see `lineage.likeness`, likewise.
        compared: blocks of the first model that were looked at.
        silent: of these, in how many no unit corresponds to one of the other model's.
    """

    units: UnitCount
    log10_p: float
    test: Test
    how: str
    retention: Retention | None = None
    inherited: Inheritance | None = None
    likeness: float | None = None
    compared: int = 1
    silent: int = 0

    @property
    def found(self) -> bool:
        """Whether the units correspond beyond chance."""
        return self.log10_p <= SIGNIFICANT


def compare_units(
    a: Record, b: Record, found: Sequence[tuple[int, int]] = ()
) -> Correspondence | None:
    """Test whether hidden units of two models correspond.

    Blocks at the same place are compared first; where their units do not correspond, every block
    with every other, since layers may have been dropped or inserted. Experts are networks of
    their own. Which pairs are tried depends on the outcome, so the correction counts them all.

    Args:
        a: record of one model.
        b: record of the other, made in any way.
        found: further pairs of blocks to try last, which a search among all blocks came up with.

    Returns:
        The test with the smallest p-value, or None where a record holds no units.
    """
    if a.units is None or b.units is None or a.layers is None or b.layers is None:
        return None
    aligned = list(dict.fromkeys(zip(a.layers, b.layers, strict=False)))
    crossed = [pair for pair in product(a.layers, b.layers) if pair not in aligned]
    count = sum(len(_network_pairs(a.units, b.units, *p)) for p in [*aligned, *crossed])
    if found:  # by looking at every network of one beside every one of the other
        count += len(a.units) * len(b.units)
    correction = math.log10(TESTS * count)
    tried: list[Correspondence] = []
    for group in (aligned, crossed, found):
        for pair in group:
            tried.extend(_test_layers(a, b, a.units, b.units, pair))
        if any(t.log10_p + correction <= SIGNIFICANT for t in tried):
            break
    return summarise(tried, correction)


def summarise(tried: Sequence[Correspondence], correction: float) -> Correspondence:
    """The best of some tests, corrected, with the means over all that are clear.

    Args:
        tried: tests of pairs of networks, not corrected; at least one.
        correction: log10 of the number of tests that were possible.
    """
    best = min(tried, key=lambda t: t.log10_p)
    clear = [t for t in tried if t.log10_p + correction <= SIGNIFICANT]
    alike = [t.likeness for t in clear if t.likeness is not None]
    layers, speaking = ({t.units.layer for t in some} for some in (tried, clear))
    return replace(
        best,
        log10_p=min(best.log10_p + correction, 0.0),
        retention=mean_retention([t.retention for t in clear if t.retention is not None]),
        inherited=average([t.inherited for t in clear if t.inherited is not None]),
        likeness=sum(alike) / len(alike) if alike else None,
        compared=len(layers),
        silent=len(layers - speaking),
    )


def _network_pairs(
    a: UnitFeatures, b: UnitFeatures, a_layer: int, b_layer: int
) -> list[tuple[int, int]]:
    return list(product(a.in_layer(a_layer), b.in_layer(b_layer)))


def _test_layers(
    a: Record,
    b: Record,
    a_units: UnitFeatures,
    b_units: UnitFeatures,
    layers: tuple[int, int],
) -> Iterator[Correspondence]:
    """The better test of each pair of networks of two blocks, not yet corrected."""
    for first, second in _network_pairs(a_units, b_units, *layers):
        x, y = a_units.of_network(first), b_units.of_network(second)
        rows = _sample(len(x))
        matching = _renumber(match_networks(x[rows], y), rows)
        tested = _test_networks(x, y, rows, matching, layers[0])
        if tested.log10_p > SIGNIFICANT:
            yield tested
            continue
        networks = (a_units.key(first), b_units.key(second))
        retention = likeness = None
        if a.relations is not None and b.relations is not None:
            in_order = tested.test == "order" and len(x) == len(y)
            same = UnitMatching.in_place(rows, matching.of, len(y)) if in_order else matching
            retention = measure_retention(a.relations, b.relations, networks, same)
        if a.barcodes is not None and b.barcodes is not None:
            likeness = likeness_of_matched(a.barcodes, b.barcodes, networks, matching)
        inherited = measure_inheritance(x, y, matching)
        yield replace(tested, retention=retention, inherited=inherited, likeness=likeness)


def _sample(units: int) -> Tensor:
    """Which units of A are looked for: all, or of a large network evenly spaced ones.

    Those that have a barcode are always among them.
    """
    if units <= 2 * SAMPLED:
        return torch.arange(units)
    spaced = range(0, units, units // SAMPLED)
    return torch.tensor(sorted({*spaced, *sampled_units(units).tolist()}))


def _test_networks(
    x: Tensor, y: Tensor, rows: Tensor, matching: UnitMatching, layer: int
) -> Correspondence:
    of = min(len(rows), len(y))
    count, log10_p, how = _order(matching, len(x))
    if log10_p > SIGNIFICANT:
        agreements = agreement(*match_twice(x[rows], y))
        calibrated = agreement_log10_p(agreements, of)
        if calibrated < log10_p:
            units = UnitCount(agreements, of, layer)
            return Correspondence(units, calibrated, "agreement", "were found twice")
    return Correspondence(UnitCount(count, of, layer), log10_p, "order", how)


def _renumber(matching: UnitMatching, rows: Tensor) -> UnitMatching:
    """A matching of some rows of A, with A's own indices."""
    return UnitMatching(rows[matching.a], matching.b, matching.of, matching.size)


def _order(matching: UnitMatching, a_size: int) -> tuple[int, float, str]:
    """How many units kept their place, log10 of p, and what was counted, in words.

    Networks of one size are compared index by index, networks of different sizes by the order
    in which their matched units come.
    """
    if matching.size == a_size:
        return matching.kept, order_log10_p(matching), "kept their place"
    length = longest_increase(matching.b)
    return length, increase_log10_p(length, len(matching.b)), "kept their order"
