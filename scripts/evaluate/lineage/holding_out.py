"""Thresholds chosen on some base families and measured on others.

The larger retention of a pair (see `huref.lineage.retention`) decides between descent and a shared
initialisation, by two thresholds: the quartiles of the gap between twins and relatives, after the
outermost 1 % of each is left out. A family is all models from one initialisation, so no model and
no initialisation is on both sides of a split.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.evaluate.lineage.measuring import Rows, key_of
from scripts.evaluate.lineage.statistics import Rate
from scripts.evaluate.lineage.truth import Truth
from scripts.zoo.manifest import Models, ancestors

TAIL = 0.01  # share of twins, and of relatives, that is left out
KIN = ("descends", "siblings", "shared initialisation")


@dataclass(frozen=True)
class Thresholds:
    """A retention up to `twin` is a shared initialisation, from `descent` on it is descent.

    Attributes:
        twin: lower quartile of the gap.
        descent: upper quartile.
        gap: what 1 % of twins exceed, and what 1 % of relatives fall below.
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
        families: the judged families.
        thresholds: from all other families.
        verdicts: by kinship, (pair, verdict).
    """

    families: tuple[str, ...]
    thresholds: Thresholds
    verdicts: Mapping[str, Sequence[tuple[Truth, str]]]


def family_of(models: Models, pair: Truth) -> str:
    """The initialisation that both models of a pair come from."""
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
    """Related pairs whose units correspond, with their larger retention."""
    return [
        (pair, max(result["retained"]))
        for pair in pairs
        if pair.kinship in KIN and (result := found[key_of(pair)])["retained"] is not None
    ]


def hold_out(
    models: Models, pairs: Sequence[Truth], found: Rows, groups: Sequence[Sequence[str]]
) -> list[Fold]:
    """Judge each group of families by thresholds from all others.

    A pair without a retention keeps its verdict, which depends on no threshold of the retention.
    """
    figures = retentions(pairs, found)
    folds = []
    for group in groups:
        others = [(p, value) for p, value in figures if family_of(models, p) not in group]
        kinds = {pair.kinship == "shared initialisation" for pair, _ in others}
        if len(kinds) < 2:
            continue
        thresholds = choose_thresholds(others)
        verdicts: dict[str, list[tuple[Truth, str]]] = {kin: [] for kin in KIN}
        for pair in pairs:
            if pair.kinship in KIN and family_of(models, pair) in group:
                row: dict[str, Any] = found[key_of(pair)]
                retained = row["retained"]
                verdict = row["verdict"] if retained is None else thresholds.judge(max(retained))
                verdicts[pair.kinship].append((pair, verdict))
        folds.append(Fold(tuple(group), thresholds, verdicts))
    return folds


def families_of(models: Models, pairs: Sequence[Truth]) -> list[str]:
    """All families with a related pair, those with most pairs first."""
    names = [family_of(models, pair) for pair in pairs if pair.kinship in KIN]
    return sorted(dict.fromkeys(names), key=lambda name: (-names.count(name), name))


def halves(families: Sequence[str]) -> list[list[str]]:
    """Two halves of the families, assigned alternately."""
    return [list(families[start::2]) for start in (0, 1)]


def rate_of(folds: Sequence[Fold], kin: str) -> tuple[Rate, list[tuple[Truth, str]]]:
    """Rate of right verdicts on a kinship in all folds together, and the pairs judged otherwise."""
    verdicts = [one for fold in folds for one in fold.verdicts[kin]]
    wrong = [(pair, verdict) for pair, verdict in verdicts if verdict != pair.expected]
    return Rate(len(verdicts) - len(wrong), len(verdicts)), wrong
