"""A lineage forest: one tree for each origin among some models.

Steps of training that know nothing of each other multiply correlations: if a child keeps 0.9 of
its parent and a grandchild 0.8 of that child, grandchild and parent correlate by about 0.72. So
-ln ICS adds up along a line of descent, as a tree's branch lengths must.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np

from huref.lineage.joining import Adjacency, contract, join_neighbours, midpoint, split
from huref.lineage.table import LineageTable, Pair

RELATED = ("descends", "shared initialisation")
JOINED_FROM = 0.1  # ICS from which models without a verdict share a tree; strangers reach 0.02
LEAST = 0.01  # the ICS at which distances end: below it there is only noise

METHOD = (
    "neighbour joining on -ln ICS, one tree for each origin; inner branches shorter than the "
    "spread of an unrelated ICS are not resolved"
)


@dataclass(frozen=True)
class Node:
    """A model (a leaf) or a common ancestor.

    Attributes:
        model: index among the table's models, or None for an ancestor that was not given.
        above: number of the node above, or None at the root.
        length: of the branch to the node above, in -ln ICS; 0 at the root.
        below: the models at the leaves below, or the leaf's own.
        descent: "down" where direction evidence says that what is below the branch came from
            what is above it, "up" where it says the opposite, None where it says nothing.
        apart: whether every verdict across this branch is "shared initialisation": what lies on
            its two sides began alike and was trained apart.
    """

    model: int | None
    above: int | None
    length: float
    below: frozenset[int]
    descent: Literal["down", "up"] | None = None
    apart: bool = False


@dataclass(frozen=True)
class Tree:
    """Models of one origin, or one model alone.

    Attributes:
        nodes: numbered from the root on, each before those below it, as they are drawn.
        founder: the model that direction evidence puts at the root, or None.
    """

    nodes: tuple[Node, ...]
    founder: int | None = None

    @property
    def models(self) -> list[int]:
        """The models, in the order in which they are drawn."""
        return [node.model for node in self.nodes if node.model is not None]

    @property
    def rooted_by(self) -> Literal["direction", "midpoint"] | None:
        """What put the root where it is; None for a model alone."""
        if len(self.nodes) == 1:
            return None
        return "midpoint" if self.founder is None else "direction"


@dataclass(frozen=True)
class Forest:
    """All origins among the models of a table.

    Attributes:
        table: what was measured.
        trees: the largest first.
        families: the models of each tree, parted into those that one training lies behind;
            families of one tree began alike and were trained apart.
    """

    table: LineageTable
    trees: tuple[Tree, ...]
    families: tuple[tuple[tuple[int, ...], ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Every tree's nodes, each with the number of the node above; directions, mixings."""
        models = self.table.models

        def name(index: int | None) -> str | None:
            return None if index is None else models[index]

        return {
            "recipe": self.table.records[0].recipe.digest,
            "method": METHOD,
            "trees": [
                {
                    "founder": name(tree.founder),
                    "rooted_by": tree.rooted_by,
                    "nodes": [
                        {
                            "model": name(node.model),
                            "above": node.above,
                            "length": round(node.length, 6),
                            "descent": node.descent,
                            "apart": node.apart,
                        }
                        for node in tree.nodes
                    ],
                }
                for tree in self.trees
            ],
            "directions": [
                {"parent": name(d.parent), "child": name(d.child), "why": d.why}
                for d in _directions(self.table)
            ],
            "mixings": [asdict(mixing) for mixing in self.table.mixings],
        }


@dataclass(frozen=True)
class _Descent:
    parent: int
    child: int
    why: str = field(compare=False)


def build_forest(table: LineageTable) -> Forest:
    """Join related models into trees.

    Models share a tree when their verdict is "descends" or "shared initialisation"; pairs without
    a verdict when their ICS, or for pictures their latents' cosine, is `JOINED_FROM`.
    """
    count = len(table.records)
    pairs = dict(zip(combinations(range(count), 2), table.pairs, strict=True))
    alike = np.eye(count)
    for (i, j), pair in pairs.items():
        alike[i, j] = alike[j, i] = likeness(pair)
    trees = [_grow(members, alike, table) for members in _group(count, pairs, RELATED)]
    trees.sort(key=lambda tree: -len(tree.models))
    trained = _group(count, pairs, RELATED[:1])
    families = [_part(tree, trained) for tree in trees]
    return Forest(table, tuple(trees), tuple(families))


def likeness(pair: Pair) -> float:
    """The ICS of a pair; for pictures the cosine of the latents, which stands for it; else 0."""
    s = pair.similarity
    value = s.ics if s.ics is not None else s.latent_cosine
    return 0.0 if value is None else value


def _group(
    count: int, pairs: dict[tuple[int, int], Pair], related: tuple[str, ...]
) -> list[list[int]]:
    """Models joined, directly or through others, by one of the verdicts in `related`."""
    home = list(range(count))
    for (i, j), pair in pairs.items():
        verdict = pair.evidence.verdict
        undecided = verdict in (None, "inconclusive")
        if verdict in related or (undecided and likeness(pair) >= JOINED_FROM):
            home = [home[i] if h == home[j] else h for h in home]
    return [[m for m in range(count) if home[m] == h] for h in dict.fromkeys(home)]


def _part(tree: Tree, groups: list[list[int]]) -> tuple[tuple[int, ...], ...]:
    """The groups of a tree's models, in the order in which they are drawn, the largest first."""
    drawn = tree.models
    parts = [tuple(m for m in drawn if m in group) for group in groups]
    return tuple(sorted(filter(None, parts), key=lambda part: (-len(part), drawn.index(part[0]))))


def _directions(table: LineageTable) -> Iterator[_Descent]:
    indices = combinations(range(len(table.records)), 2)
    for (i, j), pair in zip(indices, table.pairs, strict=True):
        direction = pair.evidence.direction
        if direction is not None:
            yield _Descent(*((i, j) if direction.parent == "a" else (j, i)), direction.why)


def _grow(family: list[int], alike: np.ndarray, table: LineageTable) -> Tree:
    if len(family) == 1:
        return Tree((Node(family[0], None, 0.0, frozenset(family)),))
    distances = -np.log(np.clip(alike[np.ix_(family, family)], LEAST, 1.0))
    spread = 1 / table.records[0].recipe.m
    joined = contract(join_neighbours(distances), len(family), spread)
    descents = [d for d in _directions(table) if d.parent in family and d.child in family]
    founder = _founder(family, descents)
    if founder is None:
        joined, root = split(joined, *midpoint(joined, len(family)))
    else:
        leaf = family.index(founder)
        ((root, length),) = joined[leaf].items()
        if length >= spread or root < len(family):
            joined, root = split(joined, leaf, root, 0.0)
    indices = combinations(range(len(alike)), 2)
    apart = {
        frozenset(both)
        for both, pair in zip(indices, table.pairs, strict=True)
        if pair.evidence.verdict == "shared initialisation"
    }
    return Tree(tuple(_hang(joined, root, family, descents, apart)), founder)


def _founder(family: list[int], descents: list[_Descent]) -> int | None:
    """The model that is a parent and nobody's child; of several, the one with most children."""
    children = {d.child for d in descents}
    votes = {
        model: sum(d.parent == model for d in descents) for model in family if model not in children
    }
    best = max(votes, key=lambda model: votes[model], default=None)
    return best if best is not None and votes[best] else None


def _hang(
    tree: Adjacency,
    root: int,
    family: list[int],
    descents: list[_Descent],
    apart: set[frozenset[int]],
) -> Iterator[Node]:
    """The nodes from the root on, each before those below it, small branches first."""
    above: dict[int, int | None] = {root: None}
    order = [root]
    for node in order:  # grows as it is walked
        for other in tree[node]:
            if other not in above:
                above[other] = node
                order.append(other)
    below: dict[int, frozenset[int]] = {}
    for node in reversed(order):
        own = {family[node]} if node < len(family) else set()
        below[node] = frozenset(own).union(*(below[o] for o in tree[node] if above[o] == node))
    everyone, numbers, waiting = frozenset(family), dict[int, int](), [root]
    while waiting:
        node = waiting.pop()
        numbers[node] = len(numbers)
        upper, inside, outside = above[node], below[node], everyone - below[node]
        down = any(d.parent in outside and d.child in inside for d in descents)
        up = any(d.parent in inside and d.child in outside for d in descents)
        yield Node(
            model=family[node] if node < len(family) else None,
            above=None if upper is None else numbers[upper],
            length=0.0 if upper is None else tree[node][upper],
            below=inside,
            descent=None if down == up else "down" if down else "up",
            apart=bool(outside)
            and all(frozenset((i, j)) in apart for i in inside for j in outside),
        )
        lower = [other for other in tree[node] if above[other] == node]
        waiting += sorted(
            lower, key=lambda n: (len(below[n]), tree[n][node], min(below[n])), reverse=True
        )
