"""Where on a map the models of a registry stand: each family an island, kin close together.

Strangers have nothing in common, so no distance between islands would mean anything: they are
packed close, the largest in the middle. Within an island t-SNE (van der Maaten and Hinton, 2008)
on 1 - ICS puts models near those they are like.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from huref.errors import RegistryError

try:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits
except ImportError as error:
    raise RegistryError("a map needs scikit-learn: pip install 'huref[map]'") from error

Points = NDArray[np.float64]
LEAST_GAP = 1.4  # between the middles of two dogs, in dogs: names stand between them
ROUNDS = 400  # of pushing apart those that overlap
PERPLEXITY = 12.0  # about as many neighbours count as close kin are many
DENSE = 0.6  # root mean square radius of an island, in gaps and roots of its number of dogs
SHORE = 0.3  # dogs between islands, beyond the gaps around them
WIDER = 1.5  # width of a map to its height
STEP = 0.35  # dogs between points that are tried for an island


def lay_out(ics: NDArray[np.float32], families: Sequence[Sequence[int]]) -> Points:
    """Positions of n models, (n, 2), in units of a dog's width, none overlapping.

    Args:
        ics: (n, n), symmetric.
        families: every model in one of them, the largest first.
    """
    points = np.zeros((len(ics), 2))
    radii = []
    for family in families:
        members = np.array(family)
        island = _island(ics[np.ix_(members, members)])
        island -= (island.max(axis=0) + island.min(axis=0)) / 2
        points[members] = island
        radii.append(float(np.linalg.norm(island, axis=1).max()) + (LEAST_GAP + SHORE) / 2)
    # A family may have fewer members than the one after it and still be wider.
    order = np.argsort(-np.array(radii), kind="stable")
    middles = _pack(np.array(radii)[order])
    for place, number in enumerate(order):
        points[np.array(families[number])] += middles[place]
    return points


def _island(ics: NDArray[np.float32]) -> Points:
    count = len(ics)
    if count <= 3:  # a dog, a pair, a triangle
        angles = 2 * math.pi * np.arange(count) / count
        radius = 0 if count == 1 else LEAST_GAP / (2 * math.sin(math.pi / count))
        return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    distances = np.clip(1 - ics.astype(np.float64), 0, 1)
    np.fill_diagonal(distances, 0)
    perplexity = max(min(PERPLEXITY, (count - 1) / 3), 1.0)
    model = TSNE(metric="precomputed", init="random", perplexity=perplexity, random_state=0)
    with threadpool_limits(1):  # what threads cost to start is more than small islands take
        points = np.asarray(model.fit_transform(distances), np.float64)
    points = _draw_in(points - np.median(points, axis=0))
    size = float(np.sqrt(np.square(points).sum(axis=1).mean()))
    return _spread(points * (DENSE * LEAST_GAP * math.sqrt(count) / max(size, 1e-9)))


def _draw_in(points: Points) -> Points:
    """Leave the middle as it is and bring those far out nearer: an island is no archipelago."""
    distance = np.linalg.norm(points, axis=1, keepdims=True)
    typical = max(float(np.median(distance)), 1e-9)
    drawn: Points = (
        points
        * np.where(
            distance > typical, typical * (1 + np.log(np.maximum(distance / typical, 1))), distance
        )
        / np.maximum(distance, 1e-9)
    )
    return drawn


def _spread(points: Points) -> Points:
    """Push apart what overlaps, a little at a time."""
    points = points + np.random.default_rng(0).normal(0, 1e-3, points.shape)
    for _ in range(ROUNDS):
        pairs = cKDTree(points).query_pairs(LEAST_GAP, output_type="ndarray")
        if not len(pairs):
            break
        apart = points[pairs[:, 0]] - points[pairs[:, 1]]
        length = np.linalg.norm(apart, axis=1, keepdims=True)
        push = apart / np.maximum(length, 1e-9) * (LEAST_GAP * 1.01 - length) * 0.5
        np.add.at(points, pairs[:, 0], push)
        np.add.at(points, pairs[:, 1], -push)
    return points


def _pack(radii: Points) -> Points:
    """Middles of circles, the largest first, each as near to the middle as there is room.

    Tried along a spiral; a circle no larger than the one before finds no room where that found
    none, so the search goes on from there.
    """
    middles = np.zeros((len(radii), 2))
    along, last = 0.0, math.inf
    for i, radius in enumerate(radii):
        if radius < 0.7 * last:  # there may be gaps that were too narrow so far
            along, last = 0.0, float(radius)
        while True:
            turn = math.sqrt(2 * along / STEP)  # a spiral whose turns are 2 pi STEP apart
            spot = STEP * turn * np.array([WIDER * math.cos(turn), math.sin(turn)])
            apart = np.linalg.norm(middles[:i] - spot, axis=1)
            if (apart >= radii[:i] + radius).all():
                break
            along += STEP
        middles[i] = spot
    return middles
