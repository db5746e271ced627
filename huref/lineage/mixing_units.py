"""Which models are mixtures of others in the table, and with which shares.

Merging adds weights, and token features of hidden units are linear in the weights as far as the
parents' embeddings and gains agree. So the features of a merged model are nearly the same mixture
of its parents' features. A mixture is reported where a mixture of two to four models comes much
nearer to a model than the nearest single one: the zoo's linear and spherical merges leave 0.04 to
0.35 of that distance, models that are no mixtures 0.6 and more. Merges that select weights by sign
or size (TIES, DARE) are not linear, leave as much as models that are no mixtures, and are not
reported (docs/maths.md, Statistics).
"""

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from huref.invariants.record import Record
from huref.lineage.evidence import Mixing

NEAREST = 60  # candidate parents
BEAM = 8  # sets of parents that are extended by one parent
MOST_PARENTS = 4
LEFT_OVER = 0.42  # distance to a mixture, at most, in distances to the nearest model
SMALLEST_SHARE = 0.05
WORTH = 0.7  # another parent must reduce the distance below this fraction of it
SUM = (0.9, 1.1)  # range of the sum of the shares before normalisation
CHUNKS = 64  # groups of hidden units that the bootstrap resamples
DRAWS = 200
MISFIT = 0.5  # part of the unexplained distance that widens an interval


def find_mixings_by_units(records: Sequence[Record]) -> tuple[Mixing, ...]:
    """The mixtures among records of one family.

    Args:
        records: models from one training run. Those without units, and those whose networks
            have other sizes than most, are left out.
    """
    records = _most_common_shape(records)
    if len(records) < 3:
        return ()
    grams = _grams(records)
    total = grams.sum(axis=0)
    everyone = range(len(records))
    first = {i: parents for i in everyone if (parents := _parents(total, i, everyone))}
    found = {}
    for child in first:
        # A mixture can also be explained by other mixtures of the same parents.
        plain = [i for i in everyone if i not in first or i == child]
        found[child] = _parents(total, child, plain) or first[child]
    return tuple(
        _measure(grams, records, child, parents)
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
    """Indices of the networks of the recipe's blocks, which records of all depths have."""
    assert record.units is not None
    return [i for layer in record.layers or () for i in record.units.in_layer(layer)]


def _grams(records: Sequence[Record]) -> np.ndarray:
    """Inner products of all models' features for each group of units, (chunks, models, models)."""
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
    gram: np.ndarray, child: int, sets: Collection[tuple[int, ...]]
) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Sets of equally many parents, of those with plausible shares, each after what it leaves.

    What is left is the squared distance from the child.
    """
    if not sets:
        return
    chosen = np.array(list(sets))
    inner, outer = gram[chosen[:, :, None], chosen[:, None, :]], gram[chosen, child]
    shares = _solve(inner, outer)
    total, least = shares.sum(axis=1), shares.min(axis=1)
    left = gram[child, child] - 2 * (shares * outer).sum(axis=1)
    left += np.einsum("ni,nij,nj->n", shares, inner, shares)
    plausible = (total >= SUM[0]) & (total <= SUM[1]) & (least >= SMALLEST_SHARE)
    yield from zip(left[plausible].tolist(), map(tuple, chosen[plausible].tolist()), strict=True)


def _shares(gram: np.ndarray, child: int, parents: Sequence[int]) -> np.ndarray:
    """The shares of some parents whose mixture is nearest to the child."""
    chosen = list(parents)
    return _solve(gram[np.ix_(chosen, chosen)], gram[chosen, child])


def _solve(inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """Least squares: (..., p) shares, of (..., p, p) and (..., p) inner products."""
    trace = np.trace(inner, axis1=-2, axis2=-1)[..., None, None]
    ridge = 1e-9 * trace * np.eye(inner.shape[-1])  # two parents may be identical
    solution: np.ndarray = np.linalg.solve(inner + ridge, outer[..., None])[..., 0]
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

    An interval adds two parts: the spread of a bootstrap over groups of hidden units, and the
    shift of the shares if half of the unexplained distance pointed towards one parent.
    """

    def shares(gram: np.ndarray) -> np.ndarray:
        raw = _shares(gram, child, parents)
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
    """Distance from the child to the mixture, in mean distances between the parents."""
    unexplained = _distance(gram, child, parents, _shares(gram, child, parents))
    between = [_distance(gram, i, (j,), np.ones(1)) for i in parents for j in parents if i < j]
    return float(np.sqrt(max(unexplained, 0.0) / max(float(np.mean(between)), 1e-300)))
