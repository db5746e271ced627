"""How much pictures change with their latents: relatives against strangers, and along paths.

Distances here are mean absolute differences of RGB, in grey levels, of pictures of 64 px.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.dogs.attributes import ATTRIBUTES, traits_of
from scripts.dogs.ears import ear_of
from scripts.dogs.shapes import build_of
from scripts.evaluate.decoder.drawings import Images, Latents, latents_of, relative_of
from scripts.evaluate.decoder.measures import Render

SET = 80  # families that are compared at once, as many as fit a page
SEED = 40  # of the latents; distinct from those of the other measures
REACH = 2.0  # standard deviations of an attribute on either side of a trait's path
STEPS = 16  # of a trait's path
STEEP = 3.0  # times the mean change: the limit

Distances = NDArray[np.float64]


def apart(first: Images, second: Images) -> Distances:
    """Mean absolute differences (n,) of pictures (n, r, r, 3) in pairs."""
    return np.asarray(np.abs(first.astype(np.int16) - second).mean((1, 2, 3)))


def all_pairs(images: Images) -> Distances:
    """Mean absolute differences of all pairs i < j, row by row, of pictures (n, r, r, 3)."""
    rows = [apart(images[i + 1 :], images[i]) for i in range(len(images) - 1)]
    return np.concatenate(rows)


def nearness(render: Render, sets: int) -> dict[str, float]:
    """Distances of relatives against strangers', over sets of 80 families.

    Returns:
        near: 95 % quantile at cos z 0.98 divided by the 1 % quantile of strangers, over all sets.
        near_most, far, far_most: the largest of these ratios in a set; the distance of the farthest
            relative at 0.95 divided by that of the nearest two strangers of its set, the mean and
            the maximum over sets.
        strangers: mean distance of two strangers, in grey levels.
    """
    bases = latents_of(SEED, sets * SET)
    pictures = render("likeness-bases", bases)
    distances = {}
    for number, cosine in enumerate((0.98, 0.95)):
        others = latents_of(SEED + 1 + number, len(bases))
        relatives = render(f"likeness-{cosine}", relative_of(bases, others, cosine))
        distances[cosine] = apart(relatives, pictures).reshape(sets, SET)
    between = np.stack([all_pairs(part) for part in pictures.reshape(sets, SET, 64, 64, 3)])
    near = np.quantile(distances[0.98], 0.95, axis=1) / np.quantile(between, 0.01, axis=1)
    far = distances[0.95].max(1) / between.min(1)
    return {
        "near": float(np.quantile(distances[0.98], 0.95) / np.quantile(between, 0.01)),
        "near_most": float(near.max()),
        "far": float(far.mean()),
        "far_most": float(far.max()),
        "strangers": float(between.mean()),
    }


def ear_positions(z: Latents, basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions (n, 2) of both ears, 0 pricked to 1 hanging, of latents (n, 512)."""
    found = []
    for attributes in z @ basis:
        traits = traits_of(attributes)
        build = build_of(traits)
        found.append([ear_of(build, traits, side).position for side in (-1, 1)])
    return np.array(found)


def kept_ears(basis: NDArray[np.float64], count: int) -> dict[str, float]:
    """How many ears of relatives keep their kind: pricked, tipped or hanging, a third each.

    Returns:
        For each cosine: `same third`, ears in the same third as the base's; `same kind`, ears that
        are not two kinds apart and moved by less than a third, so that no ear that was clearly of
        one kind is clearly of another; `moved`, the 95 % quantile of the movement.
    """
    z, figures = latents_of(SEED, count), {}
    before = ear_positions(z, basis)
    for number, cosine in enumerate((0.99, 0.95)):
        others = latents_of(SEED + 10 + number, count)
        after = ear_positions(relative_of(z, others, cosine), basis)
        moved = np.abs(after - before)
        third = np.minimum((3 * before).astype(int), 2) == np.minimum((3 * after).astype(int), 2)
        figures[f"same third {cosine}"] = float(third.mean())
        figures[f"same kind {cosine}"] = float((moved < 1 / 3).mean())
        figures[f"moved {cosine}"] = float(np.quantile(moved, 0.95))
    return figures


def trait_path(z: NDArray[np.float64], direction: NDArray[np.float64]) -> Latents:
    """Latents (STEPS + 1, 512) of z's norm whose attribute along a unit vector is -2 to 2."""
    rest = z - direction * (z @ direction)
    rest /= np.linalg.norm(rest)
    norm = np.linalg.norm(z)
    values = np.linspace(-REACH, REACH, STEPS + 1)
    rows = [value * direction + math.sqrt(norm**2 - value**2) * rest for value in values]
    return np.stack(rows)


def steepness(images: Images) -> float:
    """Largest change between neighbours on a path of pictures (n, r, r, 3), mean change = 1."""
    steps = apart(images[1:], images[:-1])
    return float(steps.max() / max(steps.mean(), 1e-9))


def steepest_traits(
    render: Render, basis: NDArray[np.float64], names: Sequence[str], dogs: int
) -> dict[str, float]:
    """For each trait, the steepness of its path, averaged over dogs.

    A single dog's path may be steeper where the trait is hidden for a part of it, such as a patch
    that grows under a mask. It is the mean change over the dogs that is taken at every step.
    """
    bases, figures = latents_of(SEED + 20, dogs), {}
    for name in names:
        direction = basis[:, ATTRIBUTES.index(name)]
        paths = np.concatenate([trait_path(z, direction) for z in bases])
        images = render(f"trait-{name}", paths).reshape(dogs, STEPS + 1, 64, 64, 3)
        steps = np.mean([apart(path[1:], path[:-1]) for path in images], axis=0)
        figures[name] = float(steps.max() / max(steps.mean(), 1e-9))
    return figures


def random_paths(render: Render, paths: int) -> list[float]:
    """Steepness of paths between two random latents, in steps of 3 degrees."""
    starts, ends = latents_of(SEED + 21, paths), latents_of(SEED + 22, paths)
    angles = np.radians(np.arange(0, 91, 3))
    points = np.concatenate([relative_of(starts, ends, math.cos(angle)) for angle in angles])
    images = render("likeness-paths", points).reshape(len(angles), paths, 64, 64, 3)
    return [steepness(images[:, path]) for path in range(paths)]


def likeness(
    render: Render, basis: NDArray[np.float64], sets: int, paths: int, dogs: int
) -> dict[str, Any]:
    """All figures of this module for one source of pictures.

    Args:
        render: pictures (n, 64, 64, 3) of latents (n, 512), by name.
        basis: from latents to attributes, (512, k).
        sets: of 80 families.
        paths: between random latents.
        dogs: over which the steepness of a trait is averaged.

    Returns:
        The keys of `nearness`; `path`, the steepest of the random paths; `trait` and its
        `steepness`, the steepest trait.
    """
    traits = steepest_traits(render, basis, ATTRIBUTES, dogs)
    steepest = max(traits, key=lambda name: traits[name])
    return nearness(render, sets) | {
        "path": max(random_paths(render, paths)),
        "trait": steepest,
        "steepness": traits[steepest],
        "over three": sorted(name for name, value in traits.items() if value > STEEP),
    }
