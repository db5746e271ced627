"""Builds lineage trees from a table of pairs."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Literal

import numpy as np

from huref.lineage.neighbour_joining import Adjacency, contract, join_neighbours, midpoint, split
from huref.lineage.table import LineageTable, Pair
from huref.lineage.tree import JOINED_FROM, Forest, Node, Tree

LEAST = 0.01  # smallest ICS in a distance: smaller ones are noise


class _Pairs:
    """The pairs of a table as matrices over its models, each (n, n).

    Attributes:
        similarity: see `ics_or_cosine`.
        descends: both come from one training run, by verdict or, where unclear, by similarity.
        shared_initialisation: the verdict is "shared initialisation".
        before: direction evidence puts the model of the row before that of the column.
    """

    def __init__(self, table: LineageTable):
        count = len(table.records)
        self.similarity = np.eye(count)
        self.descends, self.shared_initialisation, self.before = np.zeros(
            (3, count, count), dtype=bool
        )
        for (i, j), pair in zip(combinations(range(count), 2), table.pairs, strict=True):
            evidence, both = pair.evidence, ((i, j), (j, i))
            for one, other in both:
                self.similarity[one, other] = ics_or_cosine(pair)
                self.shared_initialisation[one, other] = evidence.verdict == "shared initialisation"
                self.descends[one, other] = evidence.verdict == "descends" or (
                    evidence.verdict in (None, "inconclusive")
                    and ics_or_cosine(pair) >= JOINED_FROM
                )
            if evidence.direction is not None:
                self.before[both[0] if evidence.direction.older == "a" else both[1]] = True


def build_forest(table: LineageTable) -> Forest:
    """Join related models into trees.

    Models share a tree when their verdict is "descends" or "shared initialisation"; without a clear
    verdict when their ICS, or for pictures their latents' cosine, is at least `JOINED_FROM`.
    """
    pairs = _Pairs(table)
    families = _group(pairs.descends)
    spread = 1 / table.records[0].recipe.m  # of the ICS of unrelated models
    origins = _group(pairs.descends | pairs.shared_initialisation)
    trees = [_build_tree(origin, families, pairs, spread) for origin in origins]
    trees.sort(key=lambda tree: -len(tree.models))
    return Forest(table, tuple(trees), tuple(_families_of(tree, families) for tree in trees))


def ics_or_cosine(pair: Pair) -> float:
    """The ICS of a pair; for pictures the cosine of the latents, which estimates it; else 0."""
    s = pair.similarity
    value = s.ics if s.ics is not None else s.latent_cosine
    return 0.0 if value is None else value


def _group(joined: np.ndarray) -> list[list[int]]:
    """Groups of models that are joined, directly or through others."""
    group = np.arange(len(joined))
    for i, j in zip(*np.nonzero(np.triu(joined)), strict=True):
        group[group == group[j]] = group[i]
    return [np.flatnonzero(group == name).tolist() for name in dict.fromkeys(group.tolist())]


def _families_of(tree: Tree, families: list[list[int]]) -> tuple[tuple[int, ...], ...]:
    """The families of a tree, the largest first; models in the order in which they are drawn."""
    drawn = tree.models
    parts = [tuple(m for m in drawn if m in family) for family in families]
    return tuple(sorted(filter(None, parts), key=lambda part: (-len(part), drawn.index(part[0]))))


def _build_tree(origin: list[int], families: list[list[int]], pairs: _Pairs, spread: float) -> Tree:
    if len(origin) == 1:
        return Tree((Node(origin[0], None, 0.0, frozenset(origin)),))
    distances = -np.log(np.clip(pairs.similarity[np.ix_(origin, origin)], LEAST, 1.0))
    joined = contract(join_neighbours(distances), len(origin), spread)
    founder, family = _founder([f for f in families if f[0] in origin], pairs.before)
    if founder is None:
        joined, root = split(joined, *midpoint(joined, len(origin)))
    else:
        leaf = origin.index(founder)
        ((root, length),) = joined[leaf].items()
        if length >= spread or root < len(origin):
            joined, root = split(joined, leaf, root, 0.0)
    nodes = _order_nodes(joined, root, origin)
    everyone = frozenset(origin)
    return Tree(
        tuple(
            Node(
                model=origin[number] if number < len(origin) else None,
                above=above,
                length=length,
                below=below,
                descent=_descent(below, everyone, founder, family, pairs),
                shared_initialisation=_all_across(
                    pairs.shared_initialisation, below, everyone - below
                ),
            )
            for number, above, length, below in nodes
        ),
        founder,
    )


def _founder(families: list[list[int]], before: np.ndarray) -> tuple[int | None, frozenset[int]]:
    """The model before all others of its family, and that family; the largest family decides."""
    for family in sorted(families, key=len, reverse=True):
        for model in family:
            others = [m for m in family if m != model]
            if others and before[model, others].all():
                return model, frozenset(family)
    return None, frozenset()


def _descent(
    below: frozenset[int],
    everyone: frozenset[int],
    founder: int | None,
    family: frozenset[int],
    pairs: _Pairs,
) -> Literal["down", "up"] | None:
    """Which side of a branch came first.

    In a founder's family all branches lead away from it. Elsewhere more than half of the related
    pairs across the branch must have a direction, and all of them the same.
    """
    if founder is not None and family & below:
        return None if founder in below else "down"
    across = np.ix_(sorted(everyone - below), sorted(below))
    back = np.ix_(sorted(below), sorted(everyone - below))
    related, down, up = (
        int(np.count_nonzero(pairs.descends[across])),
        int(np.count_nonzero(pairs.before[across])),
        int(np.count_nonzero(pairs.before[back])),
    )
    if bool(down) == bool(up) or 2 * max(down, up) <= related:
        return None
    return "down" if down else "up"


def _all_across(matrix: np.ndarray, some: frozenset[int], others: frozenset[int]) -> bool:
    """Whether a matrix is true for every pair of one of `some` and one of `others`."""
    return bool(others) and bool(matrix[np.ix_(sorted(some), sorted(others))].all())


def _order_nodes(
    tree: Adjacency, root: int, origin: Sequence[int]
) -> Iterator[tuple[int, int | None, float, frozenset[int]]]:
    """Nodes in drawing order: the root first, parents before children, small subtrees first.

    Yields for each its number in `tree`, the position of its parent in this order, the length of
    the branch between them, and the models below.
    """
    above: dict[int, int | None] = {root: None}
    order = [root]
    for node in order:  # extended in the loop
        for other in tree[node]:
            if other not in above:
                above[other] = node
                order.append(other)
    below: dict[int, frozenset[int]] = {}
    for node in reversed(order):
        own = {origin[node]} if node < len(origin) else set()
        below[node] = frozenset(own).union(*(below[o] for o in tree[node] if above[o] == node))
    places, waiting = dict[int, int](), [root]
    while waiting:
        node = waiting.pop()
        places[node] = len(places)
        upper = above[node]
        if upper is None:
            yield node, None, 0.0, below[node]
        else:
            yield node, places[upper], tree[node][upper], below[node]
        lower = [other for other in tree[node] if above[other] == node]
        lower.sort(key=lambda n: (len(below[n]), tree[n][node], min(below[n])), reverse=True)
        waiting += lower
