"""Neighbour joining: a tree whose path lengths approximate given distances.

Saitou & Nei, "The neighbor-joining method", Mol. Biol. Evol. 4 (1987) 406-425, with the formulas
of Studier & Keppler, ibid. 5 (1988) 729-731. It does not assume equal rates of change, so a model
after long training can have a long branch beside the short one of a light fine-tune.
"""

import numpy as np

Adjacency = dict[int, dict[int, float]]  # node -> its neighbours, with the branch to each


def join_neighbours(distances: np.ndarray) -> Adjacency:
    """The unrooted tree of n points.

    Args:
        distances: (n, n), symmetric, zero on the diagonal, finite.

    Returns:
        Nodes 0 to n - 1 are the points, each a leaf; higher nodes join them. Branches are at least
        0: where the formula gives less, the sister branch is shortened by the difference
        (Kuhner & Felsenstein, Mol. Biol. Evol. 11 (1994) 459-468).
    """
    n = len(distances)
    tree: Adjacency = {i: {} for i in range(n)}
    table = np.array(distances, dtype=np.float64)
    nodes = list(range(n))
    while len(nodes) > 2:
        size = len(nodes)
        sums = table.sum(axis=1)
        criterion = (size - 2) * table - sums[:, None] - sums[None, :]
        np.fill_diagonal(criterion, np.inf)
        i, j = sorted(np.unravel_index(int(criterion.argmin()), criterion.shape))
        between = table[i, j]
        to_i = between / 2 + (sums[i] - sums[j]) / (2 * (size - 2))
        to_i = float(np.clip(to_i, 0.0, between))
        new = len(tree)
        tree[new] = {}
        _connect(tree, new, nodes[i], to_i)
        _connect(tree, new, nodes[j], float(between) - to_i)
        row = np.maximum((table[i] + table[j] - between) / 2, 0.0)
        kept = [k for k in range(size) if k not in (i, j)]
        shrunk = np.zeros((size - 1, size - 1))
        shrunk[:-1, :-1] = table[np.ix_(kept, kept)]
        shrunk[-1, :-1] = shrunk[:-1, -1] = row[kept]
        table = shrunk
        nodes = [*(nodes[k] for k in kept), new]
    if len(nodes) == 2:
        _connect(tree, nodes[0], nodes[1], float(table[0, 1]))
    return tree


def _connect(tree: Adjacency, a: int, b: int, length: float) -> None:
    tree[a][b] = tree[b][a] = length


def contract(tree: Adjacency, leaves: int, shortest: float) -> Adjacency:
    """The tree with each inner branch shorter than `shortest` contracted to one node.

    Nodes below `leaves` are leaves and stay. The length of a contracted branch is dropped.
    """
    kept = {node: dict(neighbours) for node, neighbours in tree.items()}
    for node in sorted(tree):
        if node < leaves or node not in kept:
            continue
        while short := [
            other for other, length in kept[node].items() if other >= leaves and length < shortest
        ]:
            other = short[0]
            moved = kept.pop(other)
            for neighbour, length in moved.items():
                del kept[neighbour][other]
                if neighbour != node:
                    _connect(kept, node, neighbour, length)
    return kept


def split(tree: Adjacency, a: int, b: int, along: float) -> tuple[Adjacency, int]:
    """The tree with a new node between a and b, at distance `along` from a; and its number."""
    grown = {node: dict(neighbours) for node, neighbours in tree.items()}
    length = grown[a].pop(b)
    del grown[b][a]
    new = max(grown) + 1
    grown[new] = {}
    _connect(grown, new, a, along)
    _connect(grown, new, b, length - along)
    return grown, new


def midpoint(tree: Adjacency, leaves: int) -> tuple[int, int, float]:
    """The middle of the longest path between leaves: a branch (a, b) and the distance from a."""
    paths = [_farthest(tree, start, leaves) for start in range(leaves)]
    path, lengths = max(paths, key=lambda found: found[1][-1])
    half = lengths[-1] / 2
    step = next(i for i in range(1, len(path)) if lengths[i] >= half)
    return path[step - 1], path[step], half - lengths[step - 1]


def _farthest(tree: Adjacency, start: int, leaves: int) -> tuple[list[int], list[float]]:
    """The path from a leaf to the leaf farthest from it: its nodes, and their distances."""
    before, lengths, waiting = {start: start}, {start: 0.0}, [start]
    while waiting:
        node = waiting.pop()
        for other, length in tree[node].items():
            if other not in before:
                before[other], lengths[other] = node, lengths[node] + length
                waiting.append(other)
    path = [max((n for n in range(leaves) if n != start), key=lambda n: lengths[n])]
    while path[-1] != start:
        path.append(before[path[-1]])
    path.reverse()
    return path, [lengths[node] for node in path]
