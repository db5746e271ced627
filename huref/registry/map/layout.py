"""Positions of a registry's models on a map: each family is an island.

Within an island, t-SNE (van der Maaten and Hinton, 2008) on 1 - ICS places similar models close
together. Islands are packed tightly, the largest in the middle; models of different families are
unrelated, so the distance between islands has no meaning.
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
    raise RegistryError("a map needs scikit-learn", advice="pip install 'huref[map]'") from error

Points = NDArray[np.float64]
# Lengths are in widths of a dog.
LEAST_GAP = 1.4  # between the centres of two dogs, with room for a name
ROUNDS = 400  # of pushing overlapping dogs apart
PERPLEXITY = 12.0  # of t-SNE, about the number of neighbours
RADIUS = 0.6  # root mean square radius of an island of n dogs, times LEAST_GAP sqrt(n)
ISLAND_GAP = 0.3  # between islands, besides LEAST_GAP
ASPECT = 1.5  # width of a map over its height
STEP = 0.35  # between positions tried for an island


def lay_out(ics: NDArray[np.float32], families: Sequence[Sequence[int]]) -> Points:
    """Positions of n models, (n, 2), in widths of a dog; no two dogs overlap.

    Args:
        ics: (n, n), symmetric.
        families: a partition of the models, the largest family first.
    """
    points = np.zeros((len(ics), 2))
    radii = []
    for family in families:
        members = np.array(family)
        island = _island(ics[np.ix_(members, members)])
        island -= (island.max(axis=0) + island.min(axis=0)) / 2
        points[members] = island
        radii.append(float(np.linalg.norm(island, axis=1).max()) + (LEAST_GAP + ISLAND_GAP) / 2)
    # A smaller family may have a larger radius.
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
    with threadpool_limits(1):  # starting threads takes longer than a small island
        points = np.asarray(model.fit_transform(distances), np.float64)
    points = _draw_in(points - np.median(points, axis=0))
    size = float(np.sqrt(np.square(points).sum(axis=1).mean()))
    return _spread(points * (RADIUS * LEAST_GAP * math.sqrt(count) / max(size, 1e-9)))


def _draw_in(points: Points) -> Points:
    """Compress the distances beyond the median logarithmically, so that an island is compact."""
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
    """Push overlapping dogs apart in small steps."""
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
    """Centres of circles without overlap, the largest first, each as central as possible.

    Positions are tried along a spiral. Where a circle did not fit, one that is about as large does
    not fit either, so the search continues where the last one ended.
    """
    middles = np.zeros((len(radii), 2))
    along, last = 0.0, math.inf
    for i, radius in enumerate(radii):
        if radius < 0.7 * last:  # it may fit into gaps that were too narrow before
            along, last = 0.0, float(radius)
        while True:
            turn = math.sqrt(2 * along / STEP)  # the turns of the spiral are 2 pi STEP apart
            spot = STEP * turn * np.array([ASPECT * math.cos(turn), math.sin(turn)])
            apart = np.linalg.norm(middles[:i] - spot, axis=1)
            if (apart >= radii[:i] + radius).all():
                break
            along += STEP
        middles[i] = spot
    return middles
