"""Figures and results in words, as the report shows them."""

import math
from collections.abc import Iterable
from itertools import combinations

from huref.escape import printable
from huref.lineage.build_forest import ics_or_cosine
from huref.lineage.component import tell_towers
from huref.lineage.evidence import Mixing
from huref.lineage.moved import Moved
from huref.lineage.table import LineageTable, Pair
from huref.lineage.tree import Forest

NOTABLE = 0.05  # ICS from which a pair without a verdict is worth a row of its own


def figure(value: float | None, digits: int = 3) -> str:
    """A figure with fixed digits and a typographic minus sign; a dash where it is missing."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{round(value, digits) + 0:.{digits}f}"
    return text.replace("-", "−")


def probability(log10_p: float | None) -> tuple[str, str]:
    """A p-value as (text, ""), or below 0.001 as ("10", exponent)."""
    if log10_p is None:
        return "–", ""
    if log10_p > -3:
        return f"{10**log10_p:.3f}", ""
    return "10", f"−{math.floor(-log10_p):,}"


def count(number: int) -> str:
    """A number with separators between thousands."""
    return f"{number:,}"


def reason(pair: Pair) -> str:
    """The reason for the verdict or for its absence, and for the direction."""
    direction = pair.evidence.direction
    return f"{pair.why}; {direction.why}" if direction else pair.why


def is_notable(pair: Pair) -> bool:
    """Whether a pair is shown in the first table: every pair but unrelated ones."""
    if pair.evidence.verdict is not None:
        return pair.evidence.verdict != "unrelated"
    return ics_or_cosine(pair) >= NOTABLE


def summary(forest: Forest) -> str:
    """The result in a few sentences."""
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
        for child, a, b in find_splices(forest.table)
    ]
    for first, *others in (tree for tree in named if len(tree) > 1):
        names = [name for family in others for name in family]
        have, were = ("has", "was") if len(names) == 1 else ("have", "were")
        sentences.append(
            f"{join(names, 6)} {have} the same initialisation as {first[0]}, but {were} trained "
            "independently."
        )
    sentences = [*tower_sentences(forest.table), *sentences]
    if not sentences:
        return "No relation was found between any two of these models."
    if alone:
        verb = "has" if len(alone) == 1 else "have"
        sentences.append(f"{join(alone, 6)} {verb} no relatives among them.")
    return " ".join(sentences)


def find_splices(table: LineageTable) -> list[tuple[int, int, int]]:
    """Splices: models (child, a, b) that hold blocks of two unrelated models a and b.

    Such a child joins a and b to one family although they are unrelated. Needs layer maps; of
    several pairs a, b only the first is returned.
    """
    blocks_from: dict[int, dict[int, set[int]]] = {}
    unrelated = set()
    for (i, j), pair in zip(combinations(range(len(table.records)), 2), table.pairs, strict=True):
        layer_map = pair.evidence.layer_map
        if pair.evidence.verdict == "unrelated":
            unrelated.add((i, j))
        elif pair.evidence.verdict in ("descends", "contains parts") and layer_map is not None:
            blocks_from.setdefault(i, {})[j] = {a for a, _ in layer_map.pairs}
            blocks_from.setdefault(j, {})[i] = {b for _, b in layer_map.pairs}
    spliced = []
    for child, blocks in sorted(blocks_from.items()):
        for a, b in combinations(sorted(blocks), 2):
            if (a, b) in unrelated and blocks[a].isdisjoint(blocks[b]):
                spliced.append((child, a, b))
                break
    return spliced


def groups(forest: Forest) -> list[tuple[str, tuple[int, ...]]]:
    """Headings and models of the gallery: the families of each tree, then single models."""
    labels = [printable(label) for label in forest.table.labels]
    found: list[tuple[str, tuple[int, ...]]] = []
    for tree in forest.families:
        for place, family in enumerate(tree):
            if place:
                heading = f"Same initialisation as {labels[tree[0][0]]}, trained independently"
                found.append((heading, family))
            elif len(family) > 1:
                found.append((f"A family of {len(family)} models", family))
            elif len(tree) > 1:
                found.append(("From the same initialisation", family))
    alone = tuple(tree[0][0] for tree in forest.families if len(tree) == len(tree[0]) == 1)
    return [*found, *([("Without relatives among these models", alone)] if alone else [])]


def join(names: list[str], most: int) -> str:
    """Names as an enumeration; those beyond `most` are only counted."""
    if len(names) > most:
        rest = len(names) - most + 1
        return f"{', '.join(names[: most - 1])} and {rest} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def spans(numbers: Iterable[int]) -> str:
    """Ascending numbers, with runs of consecutive ones as spans: "0-4, 7"."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def shares(mixing: Mixing) -> list[tuple[str, float, str]]:
    """For each parent its name, its share in percent, and the share with its interval in words."""
    if mixing.shares is None or mixing.low is None or mixing.high is None:
        return [(parent, 0.0, "share not known") for parent in mixing.parents]
    return [
        (parent, 100 * share, f"{100 * share:.0f} % ({100 * low:.0f} to {100 * high:.0f} %)")
        for parent, share, low, high in zip(
            mixing.parents, mixing.shares, mixing.low, mixing.high, strict=True
        )
    ]


def merge_method(mixing: Mixing) -> str:
    """How a model was merged, and from which base, in a sentence."""
    how = {
        None: "Merged",
        "linear": "A weighted mean",
        "slerp": "A spherical merge",
        "task arithmetic": "A sum of changes (task arithmetic)",
        "ties": "A merge of the largest changes (TIES)",
        "dare linear": "A merge that drops changes at random (DARE or DELLA, without an election)",
        "dare ties": "A merge that drops changes at random and elects signs (DARE or DELLA)",
        "breadcrumbs": "A merge that drops the largest changes (breadcrumbs)",
        "passthrough": "Blocks put together unchanged (passthrough)",
    }[mixing.method]
    base = "" if mixing.base is None else f", from the base {printable(mixing.base)}"
    return f"{how}{base}: {printable(mixing.why)}."


def distance(moved: Moved) -> str:
    """How far two models have moved apart, in words."""
    like = f"; as after {join(moved.like, 4)}" if moved.like else ""
    return (
        f"moved apart by {100 * moved.share:.1f} % ({100 * moved.low:.1f} to "
        f"{100 * moved.high:.1f} %){like}"
    )


def parts_in_words(pair: Pair) -> str:
    """How many parts of two models have which verdict."""
    found: dict[str, int] = {}
    for part in pair.evidence.components or ():
        found[part.verdict or "not decided"] = found.get(part.verdict or "not decided", 0) + 1
    return ", ".join(f"{number} {verdict}" for verdict, number in found.items()) or "none in common"


def tower_sentences(table: LineageTable) -> list[str]:
    """Parts beside the language model that were taken from another family, a sentence a model.

    Known with `components` only.
    """
    labels = [printable(label) for label in table.labels]
    pairs = list(zip(combinations(range(len(labels)), 2), table.pairs, strict=True))
    bodies: dict[int, list[int]] = {}
    for (i, j), pair in pairs:
        if pair.evidence.verdict == "descends":
            bodies.setdefault(i, []).append(j)
            bodies.setdefault(j, []).append(i)
    sentences = []
    for (i, j), pair in pairs:
        common, _ = tell_towers(pair.evidence.components or ())
        if not common or pair.evidence.verdict == "descends":
            continue
        parts = join(common, 4)
        # The one whose language model has relatives here, which do not share the part, took it.
        taker, giver = (j, i) if bodies.get(j) and not bodies.get(i) else (i, j)
        if bodies.get(taker):
            sentences.append(
                f"{labels[taker]} has the {parts} of {labels[giver]} under the language model of "
                f"{labels[bodies[taker][0]]}'s family."
            )
        else:
            verb = "is" if len(common) == 1 else "are"
            sentences.append(
                f"The {parts} of {labels[i]} and {labels[j]} {verb} of one origin; their language "
                "models show no common origin."
            )
    return sentences
