"""The tests whether hidden units of two records correspond, combined into one p-value."""

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
from huref.lineage.order import (
    agreement_log10_p,
    increase_log10_p,
    longest_increase,
    order_log10_p,
)
from huref.lineage.retention import Network, Retention, mean_retention, measure_retention
from huref.lineage.unit_matching import UnitMatching, agreement, match_networks, match_twice

SIGNIFICANT = -6.0  # log10 p, corrected, up to which units count as corresponding
SAMPLED = 1024  # units of a large network of A that are matched with those of B
TESTS = 5  # order and agreement by token features or by barcodes, and agreement by relations


@dataclass(frozen=True)
class Correspondence:
    """The result of the unit tests of two records.

    Attributes:
        units: the count behind the p-value.
        log10_p: after the Bonferroni correction for all tests that were possible.
        test: "order" (exact) or "agreement" (calibrated).
        how: what the counted units do, as the end of a sentence.
        retention: the mean over the pairs of networks that correspond, where it can be measured.
        compared_blocks: number of compared blocks of the first model.
        unmatched_blocks: of these, how many have no unit that corresponds to the other model.
        blocks: corresponding blocks, (of the first model, of the second).
    """

    units: UnitCount
    log10_p: float
    test: Test
    how: str
    retention: Retention | None = None
    compared_blocks: int = 1
    unmatched_blocks: int = 0
    blocks: tuple[tuple[int, int], ...] = ()

    @property
    def found(self) -> bool:
        """Whether units correspond beyond chance."""
        return self.log10_p <= SIGNIFICANT


def compare_units(
    a: Record, b: Record, mapped: Sequence[tuple[int, int]] = ()
) -> Correspondence | None:
    """Test whether hidden units of two models correspond, by their token features.

    Blocks at the same position are compared first. Where their units do not correspond, every block
    is compared with every other, since blocks may have been dropped or inserted. Each expert counts
    as a network. Which pairs are tested depends on earlier results, so the correction counts all.

    Args:
        a: record of one model.
        b: record of the other, made in any way.
        mapped: corresponding blocks (of a, of b) of a layer map, to be tested last.

    Returns:
        The test with the smallest p-value, or None where a record holds no units.
    """
    if a.units is None or b.units is None or a.layers is None or b.layers is None:
        return None
    aligned = list(dict.fromkeys(zip(a.layers, b.layers, strict=False)))
    crossed = [pair for pair in product(a.layers, b.layers) if pair not in aligned]
    count = sum(len(_network_pairs(a.units, b.units, *p)) for p in [*aligned, *crossed])
    if mapped:  # the layer map compared every network of a with every network of b
        count += len(a.units) * len(b.units)
    correction = math.log10(TESTS * count)
    tests: list[Correspondence] = []
    for group in (aligned, crossed, mapped):
        for pair in group:
            tests.extend(_test_blocks(a, b, a.units, b.units, pair))
        if any(test.log10_p + correction <= SIGNIFICANT for test in tests):
            break
    return summarise(tests, correction)


def compare_blocks(
    a: Record, b: Record, blocks: Sequence[tuple[int, int]]
) -> Correspondence | None:
    """Like `compare_units`, for these pairs of blocks (of a, of b) of a layer map alone."""
    if a.units is None or b.units is None:
        return None
    tests = [test for pair in blocks for test in _test_blocks(a, b, a.units, b.units, pair)]
    return summarise(tests, math.log10(TESTS * len(a.units) * len(b.units))) if tests else None


def summarise(tests: Sequence[Correspondence], correction: float) -> Correspondence:
    """The best test, corrected, with the mean retention of all significant ones.

    Args:
        tests: tests of pairs of networks, not corrected; at least one.
        correction: log10 of the number of tests that were possible.
    """
    best = min(tests, key=lambda test: test.log10_p)
    significant = [test for test in tests if test.log10_p + correction <= SIGNIFICANT]
    compared, matched = ({test.units.layer for test in some} for some in (tests, significant))
    return replace(
        best,
        log10_p=min(best.log10_p + correction, 0.0),
        retention=mean_retention([t.retention for t in significant if t.retention is not None]),
        compared_blocks=len(compared),
        unmatched_blocks=len(compared - matched),
        blocks=tuple(dict.fromkeys(pair for test in significant for pair in test.blocks)),
    )


def _network_pairs(
    a: UnitFeatures, b: UnitFeatures, a_layer: int, b_layer: int
) -> list[tuple[int, int]]:
    return list(product(a.in_layer(a_layer), b.in_layer(b_layer)))


def _test_blocks(
    a: Record,
    b: Record,
    a_units: UnitFeatures,
    b_units: UnitFeatures,
    blocks: tuple[int, int],
) -> Iterator[Correspondence]:
    """The better test of each pair of networks of two blocks, not yet corrected."""
    for a_network, b_network in _network_pairs(a_units, b_units, *blocks):
        x, y = a_units.of_network(a_network), b_units.of_network(b_network)
        rows = _sample(len(x), a, a_units.key(a_network))
        matching = _renumber(match_networks(x[rows], y), rows)
        test = replace(_test_networks(x, y, rows, matching, blocks[0]), blocks=(blocks,))
        if test.log10_p <= SIGNIFICANT and a.relations is not None and b.relations is not None:
            networks = (a_units.key(a_network), b_units.key(b_network))
            in_order = test.test == "order" and len(x) == len(y)
            same = UnitMatching.identity(rows, matching.of, len(y)) if in_order else matching
            retention = measure_retention(a.relations, b.relations, networks, same, widths_of(a, b))
            test = replace(test, retention=retention)
        yield test


def widths_of(a: Record, b: Record) -> tuple[int, int]:
    """Widths of both residual streams, 0 where one is not known."""
    first, second = (0 if r.traits is None else r.traits.width for r in (a, b))
    return first, second


def _sample(units: int, a: Record, network: Network) -> Tensor:
    """Indices of the units of a network of A to match: all, or evenly spaced ones of a large one.

    Units that have a barcode, or relations to others, are always among them.
    """
    if units <= 2 * SAMPLED:
        return torch.arange(units)
    chosen = {*range(0, units, units // SAMPLED), *sampled_units(units).tolist()}
    if a.relations is not None and (place := a.relations.find(*network)) is not None:
        chosen |= set(a.relations.units_of(place).tolist())
    return torch.tensor(sorted(chosen))


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
            return Correspondence(units, calibrated, "agreement", "agree in two matchings")
    return Correspondence(UnitCount(count, of, layer), log10_p, "order", how)


def _renumber(matching: UnitMatching, rows: Tensor) -> UnitMatching:
    """The matching of a sample of A, with indices of A instead of those of the sample."""
    return UnitMatching(rows[matching.a], matching.b, matching.of, matching.b_size)


def _order(matching: UnitMatching, a_size: int) -> tuple[int, float, str]:
    """The count of the order test, log10 of its p-value, and what was counted.

    Networks of one size are compared by index, networks of different sizes by the order of their
    matched units.
    """
    if matching.b_size == a_size:
        return matching.same_index, order_log10_p(matching), "keep their index"
    length = longest_increase(matching.b)
    return length, increase_log10_p(length, len(matching.b)), "keep their order"
