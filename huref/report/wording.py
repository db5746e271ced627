"""Figures and findings in words, as the report's tables show them."""

import math
from collections.abc import Iterable
from itertools import combinations

from huref.lineage.build_forest import ics_or_cosine
from huref.lineage.evidence import Mixing
from huref.lineage.table import LineageTable, Pair
from huref.lineage.tree import Forest
from huref.report.lettering import printable

NOTABLE = 0.05  # ICS from which a pair without a verdict is worth a row of its own


def figure(value: float | None, digits: int = 3) -> str:
    """A figure with fixed digits, a true minus sign, or a dash where it could not be had."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{round(value, digits) + 0:.{digits}f}"
    return text.replace("-", "−")


def probability(log10_p: float | None) -> tuple[str, str]:
    """A p-value as text and, from a thousandth down, as ("10", exponent)."""
    if log10_p is None:
        return "–", ""
    if log10_p > -3:
        return f"{10**log10_p:.3f}", ""
    return "10", f"−{math.floor(-log10_p):,}"


def count(number: int) -> str:
    """A number with its thousands apart."""
    return f"{number:,}"


def reason(pair: Pair) -> str:
    """Why the verdict is what it is, or what is missing."""
    direction = pair.evidence.direction
    return f"{pair.why}; {direction.why}" if direction else pair.why


def is_notable(pair: Pair) -> bool:
    """Whether a pair belongs above the fold: anything but strangers."""
    if pair.evidence.verdict is not None:
        return pair.evidence.verdict != "unrelated"
    return ics_or_cosine(pair) >= NOTABLE


def summary(forest: Forest) -> str:
    """The answer in a few sentences."""
    labels = [printable(label) for label in forest.table.labels]
    named = [[[labels[m] for m in family] for family in tree] for tree in forest.families]
    related = [family for tree in named for family in tree if len(family) > 1]
    alone = [tree[0][0] for tree in named if len(tree) == len(tree[0]) == 1]
    if len(related) > 2:
        sizes = join([str(len(family)) for family in related], 8)
        sentences = [f"There are {len(related)} families, of {sizes} models."]
    else:
        sentences = [f"{join(family, 6)} are one family." for family in related]
    sentences += [
        f"{labels[child]} has blocks of {labels[a]} and of {labels[b]}, which are unrelated."
        for child, a, b in joiners(forest.table)
    ]
    for first, *others in (tree for tree in named if len(tree) > 1):
        apart = [name for family in others for name in family]
        began = f"began from the same random numbers as {first[0]} but"
        verb = "was" if len(apart) == 1 else "were"
        sentences.append(f"{join(apart, 6)} {began} {verb} trained apart.")
    if not sentences:
        return "No two of these models are related, as far as could be measured."
    if alone:
        verb = "has" if len(alone) == 1 else "have"
        sentences.append(f"{join(alone, 6)} {verb} no relatives among them.")
    return " ".join(sentences)


def joiners(table: LineageTable) -> list[tuple[int, int, int]]:
    """Models that hold blocks of two unrelated ones, as a splice does, and one such two of each.

    Families that hold both are families only through them. Needs layer maps.
    """
    held: dict[int, dict[int, set[int]]] = {}
    strangers = set()
    for (i, j), pair in zip(combinations(range(len(table.records)), 2), table.pairs, strict=True):
        found = pair.evidence.layer_map
        if pair.evidence.verdict == "unrelated":
            strangers.add((i, j))
        elif pair.evidence.verdict == "descends" and found is not None:
            held.setdefault(i, {})[j] = {a for a, _ in found.pairs}
            held.setdefault(j, {})[i] = {b for _, b in found.pairs}
    spliced = []
    for child, blocks in sorted(held.items()):
        for a, b in combinations(sorted(blocks), 2):
            if (a, b) in strangers and blocks[a].isdisjoint(blocks[b]):
                spliced.append((child, a, b))
                break
    return spliced


def groups(forest: Forest) -> list[tuple[str, tuple[int, ...]]]:
    """Headings and models of the gallery: families, their siblings, then models alone."""
    labels = [printable(label) for label in forest.table.labels]
    found: list[tuple[str, tuple[int, ...]]] = []
    for tree in forest.families:
        for place, family in enumerate(tree):
            if place:
                heading = f"The same initial random numbers as {labels[tree[0][0]]}, trained apart"
                found.append((heading, family))
            elif len(family) > 1:
                found.append((f"A family of {len(family)} models", family))
            elif len(tree) > 1:
                found.append(("From one initial draw", family))
    alone = tuple(tree[0][0] for tree in forest.families if len(tree) == len(tree[0]) == 1)
    return [*found, *([("Without relatives among these models", alone)] if alone else [])]


def join(names: list[str], most: int) -> str:
    """Names as an enumeration; beyond `most` only their number."""
    if len(names) > most:
        rest = len(names) - most + 1
        return f"{', '.join(names[: most - 1])} and {rest} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def spans(numbers: Iterable[int]) -> str:
    """Ascending numbers, those that follow each other as a span: "0-4, 7"."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def shares(mixing: Mixing) -> list[tuple[str, float, str]]:
    """Parent, share in percent and the share with its interval, as the report shows them."""
    return [
        (parent, 100 * share, f"{100 * share:.0f} % ({100 * low:.0f} to {100 * high:.0f} %)")
        for parent, share, low, high in zip(
            mixing.parents, mixing.shares, mixing.low, mixing.high, strict=True
        )
    ]
