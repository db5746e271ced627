"""Verdicts as sentences for readers who know nothing of huref, that can be printed as they are."""

from collections.abc import Iterator
from itertools import combinations

from huref.escape import printable
from huref.lineage.build_forest import build_forest
from huref.lineage.sameness import tell_blocks
from huref.lineage.table import LineageTable, Pair
from huref.report.wording import join, summary, tower_sentences

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
MOST_NAMED = 6  # models in one sentence
SAME = {
    "weights": "have the same weights",
    "quantised": "have the same weights, rounded or quantised in one of them",
    "function": "compute the same function by different weights",
}


def tell_pair(pair: Pair, a: str, b: str) -> str:
    """The verdict of one pair, in a sentence or two.

    Args:
        pair: the measured pair.
        a: what to call its first model.
        b: what to call its second model.
    """
    a, b = printable(a), printable(b)
    match pair.evidence.verdict:
        case "descends":
            return _tell_descent(pair, a, b)
        case "contains parts":
            return (
                f"{a} and {b} share parts that come from one training run, but less than half of "
                "what either of them computes."
            )
        case "shared initialisation":
            return (
                f"{a} and {b} began with the same random initialisation and were then trained "
                "independently: neither was made from the other."
            )
        case "unrelated":
            return f"The weights of {a} and {b} show no sign that one was made from the other."
        case "inconclusive":
            return f"The weights do not settle whether {a} and {b} are related."
    return f"{a} and {b} could not be compared: {printable(pair.why)}."


def _tell_descent(pair: Pair, a: str, b: str) -> str:
    direction, same = pair.evidence.direction, pair.evidence.same
    if direction is None and same is not None:
        where = tell_blocks(pair.evidence.same_blocks)
        return f"{a} and {b} {SAME[same]}{where}. Which came first, their weights do not show."
    if direction is None:
        return (
            f"{a} and {b} come from one training run: one was made from the other, or both from "
            "an earlier state of it. Which came first, their weights do not show."
        )
    parent, child = (a, b) if direction.older == "a" else (b, a)
    return f"{child} was made from {parent}, or both were made from an earlier state of it."


def tell_chance(pair: Pair) -> str:
    """How likely the agreement of independent models would be, or ""; only exact tests are told."""
    log10_p, test = pair.evidence.log10_p, pair.evidence.test
    if pair.evidence.verdict not in ("descends", "shared initialisation") or test != "order":
        return ""
    if log10_p is None or log10_p > -6:
        return ""
    return (
        "Two networks with initialisations of their own would agree as much by chance "
        f"{tell_power(log10_p)}."
    )


def tell_power(log10: float) -> str:
    """A probability in words, as "less than once in 10⁴⁰ cases"."""
    if log10 > -3:
        return f"with a probability of {10**log10:.2g}"
    return f"less than once in 10{str(int(-log10)).translate(SUPERSCRIPTS)} cases"


def tell_table(table: LineageTable) -> str:
    """The verdicts of a table: of two models in a sentence, of more by their families."""
    if len(table.pairs) == 1:
        if towers := tower_sentences(table):
            return towers[0]
        return tell_pair(table.pairs[0], *table.labels)
    return summary(build_forest(table))


def tell_pairs(table: LineageTable) -> Iterator[str]:
    """A sentence for each pair, but one for all that are unrelated."""
    labels = table.labels
    for (a, b), pair in zip(combinations(labels, 2), table.pairs, strict=True):
        if pair.evidence.verdict != "unrelated":
            yield tell_pair(pair, a, b)
    strangers = list(_without_relatives(table))
    if len(strangers) == len(labels):
        yield "The weights show no sign that any of these models was made from another."
    elif strangers:
        shown = join([printable(label) for label in strangers], MOST_NAMED)
        verb = "shows" if len(strangers) == 1 else "show"
        yield f"{shown} {verb} no sign of a relation to any other of these models."


def _without_relatives(table: LineageTable) -> Iterator[str]:
    """The models all of whose pairs are unrelated."""
    count = len(table.records)
    related = {
        model
        for models, pair in zip(combinations(range(count), 2), table.pairs, strict=True)
        for model in models
        if pair.evidence.verdict != "unrelated"
    }
    yield from (label for i, label in enumerate(table.labels) if i not in related)
