"""Which of the measured models are compared, and what is true of each pair."""

from collections.abc import Iterator, Mapping
from itertools import combinations, product
from pathlib import Path
from typing import Any, Literal

from huref.api.pairs_file import ListedPair
from huref.lineage.evidence import Verdict
from scripts.real.catalogue import read_catalogue
from scripts.real.children import RANDOM, read_children, root_of
from scripts.real.measure import CONVERTED
from scripts.zoo.manifest import ancestors, kinship

UNRELATED: Verdict = "unrelated"
EXPECTED = {"descends": "descends", "siblings": "descends", "distilled": UNRELATED}
Measured = Mapping[str, Path]
Ladder = Mapping[str, Any]


def children_pairs(measured: Measured) -> Iterator[ListedPair]:
    """Each child beside its parents and its public base; converted models beside their files."""
    children = read_children()
    for name in read_catalogue():
        if name in measured and name + CONVERTED in measured:
            yield _pair(measured, name, name + CONVERTED, "converted", "descends")
    for name, spec in children.items():
        for older in dict.fromkeys([*spec["from"], root_of(name, children)]):
            relation, expected = spec["relation"], spec.get("expected", "descends")
            if older.endswith(RANDOM):
                relation, expected = f"{relation}: the framed model", "contains parts"
            elif older not in children:
                older += CONVERTED
            if name in measured and older in measured:
                yield _pair(measured, older, name, relation, expected, expected == "descends")


def sibling_pairs(measured: Measured) -> Iterator[ListedPair]:
    """All pairs of trained children of one public model."""
    children = read_children()
    trained = [n for n, spec in children.items() if "train" in spec and n in measured]
    for a, b in combinations(trained, 2):
        if root_of(a, children) == root_of(b, children):
            yield _pair(measured, a, b, "siblings", "descends")


def stranger_pairs(measured: Measured, ladder: Ladder) -> Iterator[ListedPair]:
    """Public models, random models of their shapes, children and ladders that are unrelated."""
    children = read_children()
    public = [name for name in read_catalogue() if name in measured]
    random = [name + RANDOM for name in read_catalogue() if name + RANDOM in measured]
    bases = [n for n, entry in ladder.items() if not entry["parents"] and n in measured]
    honest = [n for n, spec in children.items() if "attack" not in spec and n in measured]
    for a, b in combinations(public, 2):
        yield _pair(measured, a, b, "two public models", UNRELATED)
    for a, b in [*product(public, random), *combinations(random, 2)]:
        yield _pair(measured, a, b, "a random model of a public shape", UNRELATED)
    for a, b in product([*public, *random], bases):
        yield _pair(measured, a, b, "a public or random model and the ladder", UNRELATED)
    for a, b in product(honest, [*public, *random]):
        if root_of(a, children) != b:
            yield _pair(measured, a, b, "a child and another model", UNRELATED)


def ladder_pairs(measured: Measured, ladder: Ladder) -> Iterator[ListedPair]:
    """All pairs of each rung, and of the bases of different rungs that start differently."""
    here = [name for name in ladder if name in measured]
    for a, b in combinations(here, 2):
        (rung, _, kind_a), (other, _, kind_b) = a.partition("-"), b.partition("-")
        truth = kinship(ladder, a, b)
        if rung != other:
            if truth == "unrelated" and not ladder[a]["parents"] and not ladder[b]["parents"]:
                yield _pair(measured, a, b, "ladder: two rungs", UNRELATED)
            continue
        expected = EXPECTED.get(truth, truth)
        older = a in ancestors(ladder, b)
        relation = f"ladder: base and {kind_b}" if kind_a == "base" else f"ladder: {truth}"
        yield _pair(measured, a, b, relation, expected, older)


def _pair(
    measured: Measured, a: str, b: str, relation: str, expected: str, parent: bool = False
) -> ListedPair:
    """A row: two models, what is expected of them, and whether a is an ancestor of b."""
    others = {"a": a, "b": b}
    older: Literal["a", "b"] | None = "a" if parent else None
    return ListedPair(0, str(measured[a]), str(measured[b]), relation, expected, older, {}, others)
