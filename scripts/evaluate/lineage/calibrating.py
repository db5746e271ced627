"""Null distributions: the figures of independent models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from huref.invariants.record import load_record
from huref.invariants.unit_features import UnitFeatures
from huref.lineage.unit_matching import agreement, match_networks, match_twice
from scripts.evaluate.lineage.measuring import key_of
from scripts.evaluate.lineage.statistics import Rate, kept_tail, uniformity
from scripts.evaluate.lineage.truth import Truth


@dataclass(frozen=True)
class Null:
    """Figures of independent pairs.

    Attributes:
        called_related: rate of the verdicts "descends" and "shared initialisation".
        inconclusive: rate of the verdict "inconclusive" and of no verdict.
        ics: ICS of each pair that has one.
        order: p-value of the order test on one pair of blocks, for pairs of the same width; made
            continuous by a random fraction of its last step.
        agreements: units on which two matchings agree, as a share, on the same blocks.
        reported: p-values that huref reports, corrected for the number of tests.
    """

    called_related: Rate
    inconclusive: Rate
    ics: np.ndarray
    order: np.ndarray
    agreements: np.ndarray
    reported: np.ndarray

    @property
    def order_uniform(self) -> float:
        """p-value of the hypothesis that the order test's p-values are uniform."""
        return uniformity(self.order, one_sided=False)

    @property
    def reported_not_too_small(self) -> float:
        """p-value of the hypothesis that the reported p-values are no smaller than uniform ones."""
        return uniformity(self.reported, one_sided=True)


def measure_null(
    pairs: Sequence[Truth], found: dict[str, Any], records: dict[str, Path], seed: int = 0
) -> Null:
    """The null distributions over the independent pairs among `pairs`."""
    independent = [pair for pair in pairs if pair.independent]
    results = [found[key_of(pair)] for pair in independent]
    units = {
        name: load_record(records[name]).units
        for name in {n for p in independent for n in (p.a, p.b)}
    }
    generator = np.random.default_rng(seed)
    order, agreements = [], []
    for pair in independent:
        if (tested := _test(units[pair.a], units[pair.b], generator)) is not None:
            order.append(tested[0])
            agreements.append(tested[1])
    verdicts = [one["verdict"] for one in results]
    related = sum(verdict in ("descends", "shared initialisation") for verdict in verdicts)
    unclear = sum(verdict in ("inconclusive", None) for verdict in verdicts)
    return Null(
        called_related=Rate(related, len(results)),
        inconclusive=Rate(unclear, len(results)),
        ics=np.array([one["ics"] for one in results if one["ics"] is not None]),
        order=np.array(order),
        agreements=np.array(agreements),
        reported=np.array([10 ** one["log10_p"] for one in results if one["log10_p"] is not None]),
    )


def _test(
    a: UnitFeatures | None, b: UnitFeatures | None, generator: np.random.Generator
) -> tuple[float, float] | None:
    """p-value of the order test and share of agreeing units in the second block.

    None for different widths.
    """
    if a is None or b is None:
        return None
    x, y = (units.of_network(units.in_layer(units.layers[1])[0]) for units in (a, b))
    if len(x) != len(y):
        return None
    matching = match_networks(x, y)
    tails = [kept_tail(len(matching.a), len(y), matching.same_index + step) for step in (0, 1)]
    p = tails[1] + generator.random() * (tails[0] - tails[1])
    return p, agreement(*match_twice(x, y)) / len(x)
