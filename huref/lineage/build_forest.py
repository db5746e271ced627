"""From a table of pairs to lineage trees: who belongs together, how, and from where."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Literal

import numpy as np

from huref.lineage.neighbour_joining import Adjacency, contract, join_neighbours, midpoint, split
from huref.lineage.table import LineageTable, Pair
from huref.lineage.tree import JOINED_FROM, Forest, Node, Tree

LEAST = 0.01  # the ICS at which distances end: below it there is only noise


class _Pairs:
    """The pairs of a table as matrices over its models, each (n, n).

    Attributes:
        alike: the ICS, see `likeness`.
        descends: one training lies behind both, by verdict or, without one, by likeness.
        apart: the verdict is "shared initialisation".
        before: direction evidence puts the model of the row before that of the column.
    """

    def __init__(self, table: LineageTable):
        count = len(table.records)
        self.alike = np.eye(count)
        self.descends, self.apart, self.before = np.zeros((3, count, count), dtype=bool)
        for (i, j), pair in zip(combinations(range(count), 2), table.pairs, strict=True):
            evidence, both = pair.evidence, ((i, j), (j, i))
            for one, other in both:
                self.alike[one, other] = likeness(pair)
                self.apart[one, other] = evidence.verdict == "shared initialisation"
                self.descends[one, other] = evidence.verdict == "descends" or (
                    evidence.verdict in (None, "inconclusive") and likeness(pair) >= JOINED_FROM
                )
            if evidence.direction is not None:
                self.before[both[0] if evidence.direction.older == "a" else both[1]] = True


def build_forest(table: LineageTable) -> Forest:
    """Join related models into trees.

    Models share a tree when their verdict is "descends" or "shared initialisation"; pairs without
    a verdict when their ICS, or for pictures their latents' cosine, is `JOINED_FROM`.
    """
    pairs = _Pairs(table)
    families = _group(pairs.descends)
    spread = 1 / table.records[0].recipe.m  # of an unrelated ICS
    origins = _group(pairs.descends | pairs.apart)
    trees = [_grow(origin, families, pairs, spread) for origin in origins]
    trees.sort(key=lambda tree: -len(tree.models))
    return Forest(table, tuple(trees), tuple(_part(tree, families) for tree in trees))


def likeness(pair: Pair) -> float:
    """The ICS of a pair; for pictures the cosine of the latents, which stands for it; else 0."""
    s = pair.similarity
    value = s.ics if s.ics is not None else s.latent_cosine
    return 0.0 if value is None else value


def _group(joined: np.ndarray) -> list[list[int]]:
    """Models that are joined, directly or through others."""
    home = np.arange(len(joined))
    for i, j in zip(*np.nonzero(np.triu(joined)), strict=True):
        home[home == home[j]] = home[i]
    return [np.flatnonzero(home == name).tolist() for name in dict.fromkeys(home.tolist())]


def _part(tree: Tree, families: list[list[int]]) -> tuple[tuple[int, ...], ...]:
    """The families of a tree's models, in the order in which they are drawn, the largest first."""
    drawn = tree.models
    parts = [tuple(m for m in drawn if m in family) for family in families]
    return tuple(sorted(filter(None, parts), key=lambda part: (-len(part), drawn.index(part[0]))))


def _grow(origin: list[int], families: list[list[int]], pairs: _Pairs, spread: float) -> Tree:
    if len(origin) == 1:
        return Tree((Node(origin[0], None, 0.0, frozenset(origin)),))
    distances = -np.log(np.clip(pairs.alike[np.ix_(origin, origin)], LEAST, 1.0))
    joined = contract(join_neighbours(distances), len(origin), spread)
    founder, family = _founder([f for f in families if f[0] in origin], pairs.before)
    if founder is None:
        joined, root = split(joined, *midpoint(joined, len(origin)))
    else:
        leaf = origin.index(founder)
        ((root, length),) = joined[leaf].items()
        if length >= spread or root < len(origin):
            joined, root = split(joined, leaf, root, 0.0)
    nodes = _hang(joined, root, origin)
    everyone = frozenset(origin)
    return Tree(
        tuple(
            Node(
                model=origin[number] if number < len(origin) else None,
                above=above,
                length=length,
                below=below,
                descent=_descent(below, everyone, founder, family, pairs),
                apart=_all(pairs.apart, below, everyone - below),
            )
            for number, above, length, below in nodes
        ),
        founder,
    )


def _founder(families: list[list[int]], before: np.ndarray) -> tuple[int | None, frozenset[int]]:
    """The model that comes before all others of its family, and the family, the largest first."""
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
    """Which side of a branch was there first.

    In a founder's family all branches lead away from it. Elsewhere most pairs across the branch
    must have a direction, and all of them the same.
    """
    if founder is not None and family & below:
        return None if founder in below else "down"
    across = np.ix_(sorted(everyone - below), sorted(below))
    back = np.ix_(sorted(below), sorted(everyone - below))
    kin, down, up = (
        int(np.count_nonzero(pairs.descends[across])),
        int(np.count_nonzero(pairs.before[across])),
        int(np.count_nonzero(pairs.before[back])),
    )
    if bool(down) == bool(up) or 2 * max(down, up) <= kin:
        return None
    return "down" if down else "up"


def _all(facts: np.ndarray, some: frozenset[int], others: frozenset[int]) -> bool:
    return bool(others) and bool(facts[np.ix_(sorted(some), sorted(others))].all())


def _hang(
    tree: Adjacency, root: int, origin: Sequence[int]
) -> Iterator[tuple[int, int | None, float, frozenset[int]]]:
    """Nodes from the root on, each before those below it, small branches first.

    Each is given with its number in `tree`, the place of the node above in this order, the length
    of the branch between them, and the models below.
    """
    above: dict[int, int | None] = {root: None}
    order = [root]
    for node in order:  # grows as it is walked
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
