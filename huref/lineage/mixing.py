"""Which models are mixtures of others in the table, and how much of each they took.

Merging adds weights up, and token features of hidden units are linear in weights, as far as the
parents' embeddings and gains agree. So a merged model's features are, nearly, the same mixture of
its parents' features. A mixture is reported where two to four models explain most of what
separates a model from the nearest of them; the zoo's linear and spherical merges leave 0.04 to
0.35 of that distance, models that are no mixtures 0.6 and more. Merges that pick weights by sign
or size (TIES, DARE) are not linear, leave as much, and are not reported.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from huref.invariants.record import Record
from huref.lineage.evidence import Mixing

NEAREST = 60  # candidates for parents
BEAM = 8  # sets of parents that are extended by one more
MOST_PARENTS = 4
LEFT_OVER = 0.42  # of the distance to the nearest model, at most, for a mixture
SMALLEST_SHARE = 0.05
WORTH = 0.7  # one parent more must bring the rest below so much of what it was
SUM = (0.9, 1.1)  # of the shares before they are normalised
CHUNKS = 64  # groups of hidden units that the bootstrap draws from
DRAWS = 200
MISFIT = 0.5


def find_mixings(records: Sequence[Record]) -> tuple[Mixing, ...]:
    """The mixtures among records of one family.

    Args:
        records: models that one training lies behind. Those without units, and those whose
            networks have other sizes than most, are left out.
    """
    alike = _most_common_shape(records)
    if len(alike) < 3:
        return ()
    grams = _grams(alike)
    total = grams.sum(axis=0)
    everyone = range(len(alike))
    first = {i: parents for i in everyone if (parents := _parents(total, i, everyone))}
    found = {}
    for child in first:
        # A mixture may look like one of other mixtures of the same parents.
        plain = [i for i in everyone if i not in first or i == child]
        found[child] = _parents(total, child, plain) or first[child]
    return tuple(
        _measure(grams, alike, child, parents)
        for child, parents in found.items()
        if not any(child in found.get(parent, ()) for parent in parents)
    )


def _most_common_shape(records: Sequence[Record]) -> list[Record]:
    shapes: dict[tuple[int, ...], list[Record]] = {}
    for record in records:
        if record.units is not None:
            sizes = record.units.networks[_read_networks(record), 2]
            shapes.setdefault(tuple(sizes.tolist()), []).append(record)
    return max(shapes.values(), key=len, default=[])


def _read_networks(record: Record) -> list[int]:
    """Networks of the recipe's blocks, which all depths have."""
    assert record.units is not None
    return [i for layer in record.layers or () for i in record.units.in_layer(layer)]


def _grams(records: Sequence[Record]) -> np.ndarray:
    """Inner products of all models' features by group of units, (chunks, models, models)."""
    features = []
    for record in records:
        assert record.units is not None
        parts = [
            (record.units.of_network(i).float() * record.units.scales[i][:, None]).flatten(1)
            for i in _read_networks(record)
        ]
        features.append(np.concatenate([part.numpy() for part in parts]))
    stacked = np.stack(features)  # (models, units, 3 r)
    groups = np.array_split(stacked, min(CHUNKS, stacked.shape[1]), axis=1)
    flat = [group.reshape(len(records), -1).astype(np.float64) for group in groups]
    return np.stack([group @ group.T for group in flat])


def _parents(gram: np.ndarray, child: int, among: Sequence[int]) -> tuple[int, ...]:
    """The models that a child is a mixture of, or ()."""
    squared = np.array([_distance(gram, child, (i,), np.ones(1)) for i in range(len(gram))])
    others = sorted((i for i in among if i != child), key=lambda i: squared[i])[:NEAREST]
    if len(others) < 2 or squared[others[0]] <= 0:
        return ()
    best: tuple[int, ...] = ()
    rest = np.inf
    beam: list[tuple[int, ...]] = [(i,) for i in others]
    for _ in range(2, MOST_PARENTS + 1):
        wider = {
            tuple(sorted({*parents, i})) for parents in beam for i in others if i not in parents
        }
        tried = sorted(_explanations(gram, child, wider))
        if not tried:
            break
        beam = [parents for _, parents in tried[:BEAM]]
        if tried[0][0] < WORTH**2 * rest:
            rest, best = tried[0]
    return best if rest <= LEFT_OVER**2 * squared[others[0]] else ()


def _explanations(
    gram: np.ndarray, child: int, sets: Iterable[tuple[int, ...]]
) -> Iterator[tuple[float, tuple[int, ...]]]:
    """The sets of parents with plausible shares, after the squared distance that each leaves."""
    for parents in sets:
        shares = _solve(gram, child, parents)
        if SUM[0] <= shares.sum() <= SUM[1] and shares.min() >= SMALLEST_SHARE:
            yield _distance(gram, child, parents, shares), parents


def _solve(gram: np.ndarray, child: int, parents: Sequence[int]) -> np.ndarray:
    """Least squares: the shares of some parents that come nearest to the child."""
    chosen = list(parents)
    inner = gram[np.ix_(chosen, chosen)]
    ridge = 1e-9 * np.trace(inner) * np.eye(len(chosen))  # two parents may be one and the same
    solution: np.ndarray = np.linalg.solve(inner + ridge, gram[chosen, child])
    return solution


def _distance(gram: np.ndarray, child: int, parents: Sequence[int], shares: np.ndarray) -> float:
    """Squared distance from a child to a mixture."""
    chosen = list(parents)
    inner = shares @ gram[np.ix_(chosen, chosen)] @ shares
    return float(gram[child, child] - 2 * shares @ gram[chosen, child] + inner)


def _measure(
    grams: np.ndarray, records: Sequence[Record], child: int, parents: Sequence[int]
) -> Mixing:
    """Shares and their intervals.

    An interval covers chance, by drawing groups of hidden units with replacement, and what the
    mixture leaves unexplained, should half of it lean towards one parent.
    """

    def shares(gram: np.ndarray) -> np.ndarray:
        raw = _solve(gram, child, parents)
        normalised: np.ndarray = raw / raw.sum()
        return normalised

    random = np.random.default_rng(0)
    draws = np.stack(
        [
            shares(grams[random.integers(len(grams), size=len(grams))].sum(axis=0))
            for _ in range(DRAWS)
        ]
    )
    gram = grams.sum(axis=0)
    best, spread = shares(gram), 2 * draws.std(axis=0)
    half = np.hypot(spread, MISFIT * _misfit(gram, child, parents))
    return Mixing(
        records[child].model,
        tuple(records[i].model for i in parents),
        tuple(map(float, best)),
        tuple(map(float, np.maximum(best - half, 0.0))),
        tuple(map(float, np.minimum(best + half, 1.0))),
    )


def _misfit(gram: np.ndarray, child: int, parents: Sequence[int]) -> float:
    """What a mixture leaves unexplained, against the mean distance between its parents."""
    left = _distance(gram, child, parents, _solve(gram, child, parents))
    apart = [_distance(gram, i, (j,), np.ones(1)) for i in parents for j in parents if i < j]
    return float(np.sqrt(max(left, 0.0) / max(float(np.mean(apart)), 1e-300)))
