"""Which block of one model comes from which block of another, by their corresponding units.

Every block is compared with every other on a sample of hidden units. No order of blocks is assumed,
so dropped, duplicated, stacked and spliced blocks all show.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from huref.invariants.barcodes import Barcodes
from huref.invariants.relations import Relations
from huref.invariants.unit_features import UnitFeatures
from huref.lineage import relation_test
from huref.lineage.barcode_test import comparable_networks, compare_networks, hinted_networks
from huref.lineage.evidence import LayerMap
from huref.lineage.order import (
    agreement_log10_p,
    increase_log10_p,
    longest_increase,
    order_log10_p,
)
from huref.lineage.unit_matching import agreement, match_networks, match_twice

SAMPLE = 256  # hidden units of a block of A that are matched with those of a block of B
CLEAR = -9.0  # log10 p up to which one block counts as coming from another


def map_layers(
    a: UnitFeatures,
    b: UnitFeatures,
    a_codes: Barcodes | None = None,
    b_codes: Barcodes | None = None,
    a_relations: Relations | None = None,
    b_relations: Relations | None = None,
) -> LayerMap:
    """Compare every block of A with every block of B.

    The order test comes first. Where no pair of blocks passes it, the agreement test is used, which
    finds permuted units; it takes longer, and its p-values are calibrated, not exact. A block of B
    that corresponds to none so far is compared by barcodes, which do not depend on embeddings: it
    may have been spliced in under another model's embeddings. What still corresponds to none is
    compared by relations, which need no common order of the sampled units either.

    Args:
        a: features of all of A's units.
        b: likewise of B's.
        a_codes: barcodes of A's units, of all blocks.
        b_codes: likewise of B's.
        a_relations: relations between A's units, of all blocks.
        b_relations: likewise of B's.
    """
    share, log10_p = _compare(a, b, in_order=True)
    if log10_p.min(initial=0.0) > CLEAR:
        share, log10_p = _compare(a, b, in_order=False)
    # The gate of an idle block may still be a copy of another block's.
    rows = {layer: i for i, layer in enumerate(a.layers) if not a.is_idle(layer)}

    def unmapped() -> dict[int, int]:
        return {
            layer: j
            for j, layer in enumerate(b.layers)
            if log10_p[:, j].min() > CLEAR and not b.is_idle(layer)
        }

    def add(tests: Iterator[tuple[int, int, float, float]]) -> None:
        for i, j, count, p in tests:
            if p <= min(log10_p[i, j], CLEAR):
                share[i, j], log10_p[i, j] = max(share[i, j], count), p

    if a_codes is not None and b_codes is not None:
        add(_by_barcodes(a_codes, b_codes, rows, unmapped()))
    if a_relations is not None and b_relations is not None:
        add(_by_relations(a_relations, b_relations, rows, unmapped()))
    source = tuple(
        a.layers[int(share[:, j].argmax())] if log10_p[:, j].min() <= CLEAR else None
        for j in range(len(b.layers))
    )
    return LayerMap(a.layers, b.layers, share, source)


def _by_barcodes(
    a: Barcodes, b: Barcodes, rows: dict[int, int], columns: dict[int, int]
) -> Iterator[tuple[int, int, float, float]]:
    """Row, column, share of corresponding units and log10 p of blocks with a row and a column."""
    hinted = hinted_networks(a, b)
    for first, second in comparable_networks(a, b):
        if hinted is not None and (first, second) not in hinted:
            continue
        i, j = rows.get(a.key(first)[0]), columns.get(b.key(second)[0])
        if i is not None and j is not None:
            test, _ = compare_networks(a, b, first, second)
            yield i, j, test.units.matched / test.units.of, test.log10_p


def _by_relations(
    a: Relations, b: Relations, rows: dict[int, int], columns: dict[int, int]
) -> Iterator[tuple[int, int, float, float]]:
    """As `_by_barcodes`, by relations between units."""
    if not columns:
        return
    for first, second in relation_test.hinted_networks(a, b):
        i, j = rows.get(int(a.networks[first, 0])), columns.get(int(b.networks[second, 0]))
        if i is not None and j is not None:
            test, _ = relation_test.compare_networks(a, b, first, second)
            yield i, j, test.units.matched / test.units.of, test.log10_p


def _compare(a: UnitFeatures, b: UnitFeatures, in_order: bool) -> tuple[np.ndarray, np.ndarray]:
    """Shares of corresponding units and log10 p, each (blocks of A, blocks of B)."""
    shape = (len(a.layers), len(b.layers))
    share, log10_p = np.zeros(shape), np.zeros(shape)
    for i, a_layer in enumerate(a.layers):
        for j, b_layer in enumerate(b.layers):
            for first, second in zip(a.in_layer(a_layer), b.in_layer(b_layer), strict=False):
                x, y = a.of_network(first), b.of_network(second)
                count, of, p = _order_test(x, y) if in_order else _agreement_test(x, y)
                if p <= log10_p[i, j]:
                    share[i, j], log10_p[i, j] = max(share[i, j], count / of), p
    return share, log10_p


def _order_test(x: Tensor, y: Tensor) -> tuple[int, int, float]:
    """Number of sampled units that keep their index or order, size of the sample, and log10 p."""
    rows = _sample(len(x))
    if len(x) == len(y):
        matching = match_networks(x[rows], y[rows])
        return matching.same_index, matching.of, order_log10_p(matching)
    matching = match_networks(x[rows], y)
    length, matched = longest_increase(matching.b), len(matching.b)
    by_chance = 2 * math.sqrt(matched)  # expected length in random order, asymptotically
    count = max(length - round(by_chance), 0)
    return count, matching.of, increase_log10_p(length, matched)


def _agreement_test(x: Tensor, y: Tensor) -> tuple[int, int, float]:
    """Number of sampled units on which two matchings agree, size of the sample, and log10 p."""
    rows = _sample(len(x))
    agreements, of = agreement(*match_twice(x[rows], y)), min(len(rows), len(y))
    return agreements, of, agreement_log10_p(agreements, of)


def _sample(units: int) -> Tensor:
    """Evenly spaced units, at most about twice SAMPLE of them."""
    return torch.arange(0, units, max(units // SAMPLE, 1))
