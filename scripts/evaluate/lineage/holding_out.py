"""Thresholds chosen on some base families and measured on others.

What tells descent from a shared initialisation is one figure, the larger retention of a pair (see
`huref.lineage.retention`), and two thresholds: the quartiles of the gap between twins and
relatives, the outermost hundredth of each left aside. A family is an untrained draw and all that
goes back to it, so that no model, and no draw, stands on both sides.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.evaluate.lineage.measuring import Rows, key_of
from scripts.evaluate.lineage.statistics import Rate
from scripts.evaluate.lineage.truth import Truth
from scripts.zoo.manifest import Models, ancestors

TAIL = 0.01  # of the pairs of a kind, that may lie on the wrong side
KIN = ("descends", "siblings", "shared initialisation")


@dataclass(frozen=True)
class Thresholds:
    """A retention of at most `twin` is a shared initialisation, one of at least `descent` descent.

    Attributes:
        twin: lower quartile of the gap.
        descent: upper quartile.
        gap: what one in a hundred twins exceeds, and one in a hundred relatives falls below.
    """

    twin: float
    descent: float
    gap: tuple[float, float]

    def judge(self, retention: float) -> str:
        """The verdict of a pair whose units correspond."""
        if retention >= self.descent:
            return "descends"
        return "shared initialisation" if retention <= self.twin else "inconclusive"


@dataclass(frozen=True)
class Fold:
    """Pairs of some families, judged by thresholds from the others.

    Attributes:
        families: those that were measured.
        thresholds: from all other families.
        said: verdicts by kinship, as (pair, verdict).
    """

    families: tuple[str, ...]
    thresholds: Thresholds
    said: Mapping[str, Sequence[tuple[Truth, str]]]


def family_of(models: Models, pair: Truth) -> str:
    """The draw that both models of a pair go back to; of a splice, the one that they share."""
    roots = [
        {models[n]["initialisation"] for n in ancestors(models, name) if not models[n]["parents"]}
        for name in (pair.a, pair.b)
    ]
    family: str = min(roots[0] & roots[1])
    return family


def choose_thresholds(figures: Sequence[tuple[Truth, float]]) -> Thresholds:
    """The quartiles of the gap between the retentions of twins and those of relatives.

    Args:
        figures: pairs whose units correspond, and their larger retention.
    """
    twins = sorted(value for pair, value in figures if pair.kinship == "shared initialisation")
    relatives = sorted(value for pair, value in figures if pair.kinship != "shared initialisation")
    twin = twins[-1 - math.floor(TAIL * len(twins))]
    relative = relatives[math.floor(TAIL * len(relatives))]
    low, high = min(twin, relative), max(twin, relative)
    quarter = (high - low) / 4
    return Thresholds(low + quarter, high - quarter, (twin, relative))


def retentions(pairs: Sequence[Truth], found: Rows) -> list[tuple[Truth, float]]:
    """The pairs of kin whose units correspond, with their larger retention."""
    return [
        (pair, max(said["retained"]))
        for pair in pairs
        if pair.kinship in KIN and (said := found[key_of(pair)])["retained"] is not None
    ]


def hold_out(
    models: Models, pairs: Sequence[Truth], found: Rows, groups: Sequence[Sequence[str]]
) -> list[Fold]:
    """Each group of families judged by what all others show.

    A pair whose units have no retention keeps the verdict that it has: nothing that was chosen on
    related models decided it.
    """
    figures = retentions(pairs, found)
    folds = []
    for group in groups:
        others = [(p, value) for p, value in figures if family_of(models, p) not in group]
        kinds = {pair.kinship == "shared initialisation" for pair, _ in others}
        if len(kinds) < 2:
            continue
        thresholds = choose_thresholds(others)
        said: dict[str, list[tuple[Truth, str]]] = {kin: [] for kin in KIN}
        for pair in pairs:
            if pair.kinship in KIN and family_of(models, pair) in group:
                row: dict[str, Any] = found[key_of(pair)]
                retained = row["retained"]
                verdict = row["verdict"] if retained is None else thresholds.judge(max(retained))
                said[pair.kinship].append((pair, verdict))
        folds.append(Fold(tuple(group), thresholds, said))
    return folds


def families_of(models: Models, pairs: Sequence[Truth]) -> list[str]:
    """All families with a pair of kin, those with most pairs first."""
    names = [family_of(models, pair) for pair in pairs if pair.kinship in KIN]
    return sorted(dict.fromkeys(names), key=lambda name: (-names.count(name), name))


def halves(families: Sequence[str]) -> list[list[str]]:
    """Two halves, the families dealt out in turn."""
    return [list(families[start::2]) for start in (0, 1)]


def rate_of(folds: Sequence[Fold], kin: str) -> tuple[Rate, list[tuple[Truth, str]]]:
    """How many pairs of a kinship were judged right in all folds together, and the others."""
    said = [one for fold in folds for one in fold.said[kin]]
    wrong = [(pair, verdict) for pair, verdict in said if verdict != pair.expected]
    return Rate(len(said) - len(wrong), len(said)), wrong
