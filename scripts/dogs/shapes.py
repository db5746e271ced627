"""Outlines of head and body, in percent of the frame (x right, y down).

All dogs have one pose: the head is centred at x = 50, and the eyes are at y = EYE_LINE.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import skia

from scripts.dogs.attributes import between, blend, present

EYE_LINE = 46.0
OUTLINE = 336  # points of the head outline
TUFTS = 42  # fur tufts around it


def polygon(points: np.ndarray) -> skia.Path:
    """A closed path through points of shape (n, 2)."""
    return skia.Path.Polygon([skia.Point(x, y) for x, y in points.tolist()], True)


def _periodic_spline(knots: int, samples: int) -> np.ndarray:
    """Matrix (samples, knots) of a closed Catmull-Rom curve."""
    matrix = np.zeros((samples, knots))
    for row, place in enumerate(np.arange(samples) * knots / samples):
        first, t = int(place), place - int(place)
        basis = (
            -0.5 * t + t**2 - 0.5 * t**3,
            1 - 2.5 * t**2 + 1.5 * t**3,
            0.5 * t + 2 * t**2 - 1.5 * t**3,
            -0.5 * t**2 + 0.5 * t**3,
        )
        for shift, weight in enumerate(basis):
            matrix[row, (first + shift - 1) % knots] += weight
    return matrix


_HEAD_SPLINE = _periodic_spline(16, OUTLINE)


def _tuft_profiles() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heights in [0, 1] along the outline: fur spikes, curls and stray wiry spikes."""
    rng = np.random.default_rng(5)
    place = np.arange(OUTLINE) * TUFTS / OUTLINE
    tuft = place.astype(int)
    # Tufts of random width and lean.
    ends = np.cumsum(rng.uniform(0.45, 1.5, TUFTS))
    ends = np.concatenate([[0.0], ends * OUTLINE / ends[-1]])
    spikes = np.zeros(OUTLINE)
    for start, end in pairwise(ends):
        inside = (np.arange(OUTLINE) >= start) & (np.arange(OUTLINE) < end)
        s = (np.arange(OUTLINE)[inside] - start) / (end - start)
        lean = rng.uniform(0.3, 0.7)
        peak = np.minimum(s / lean, (1 - s) / (1 - lean)) ** 1.15
        spikes[inside] = peak * rng.uniform(0.5, 1.0) * min(1.0, (end - start) / 8)
    curls = np.sqrt(np.abs(np.sin(np.pi * (place * 0.62)))) * rng.uniform(0.75, 1, TUFTS)[tuft]
    wires = np.where(np.arange(OUTLINE) % 6 == 0, rng.uniform(0.2, 1.0, OUTLINE), 0.0)
    return spikes, curls, wires


_SPIKES, _CURLS, _WIRES = _tuft_profiles()


@dataclass(frozen=True)
class Build:
    """Sizes that several parts of a dog use, in percent of the frame."""

    skull: float
    cheek: float
    jaw: float
    chin: float
    top: float
    muzzle: float  # half width
    muzzle_top: float
    nose: float  # y of its centre
    mouth: float  # y of the lips below the nose
    eye_gap: float  # from the midline to an eye


def build_of(t: dict[str, float]) -> Build:
    """The sizes of a dog with traits t."""
    skull = between(25.0, 34.0, t["skull_width"])
    length = t["muzzle_length"]
    nose = between(59.5, 70.0, length)
    jaw = between(13.0, 26.0, t["jaw_width"]) + 0.35 * (skull - 29.5) - 2.5 * length
    return Build(
        skull=skull,
        cheek=0.6 * skull + 0.4 * (jaw + 6) + between(-1.5, 3.5, t["cheek"]),
        jaw=jaw,
        chin=between(80.0, 88.0, length) + 1.2 * t["chin"],
        top=between(25.0, 18.5, t["dome"]),
        muzzle=between(10.5, 22.5, t["muzzle_width"]) - 1.0 * length,
        muzzle_top=nose - between(7.0, 13.0, t["muzzle_height"]) - 2 * length,
        nose=nose,
        mouth=nose + 8.5,
        eye_gap=between(12.0, 15.6, t["eye_spacing"]),
    )


def head_outline(b: Build, t: dict[str, float]) -> np.ndarray:
    """Outline including fur, (OUTLINE, 2), clockwise from the top."""
    right = [
        (0.0, b.top),
        (0.42 * b.skull, b.top + 1.2),
        (0.80 * b.skull, b.top + 8.5),
        (b.skull, EYE_LINE - 3),
        (b.cheek, 60.0),
        (b.jaw, 71.5 + 0.3 * (b.chin - 84)),
        (0.62 * b.jaw, b.chin - 4.5),
        (0.25 * b.jaw, b.chin - 0.6),
    ]
    left = [(-dx, y) for dx, y in right[:0:-1]]
    knots = np.array([*right, (0.0, b.chin), *left])
    curve = _HEAD_SPLINE @ knots
    tangent = np.roll(curve, -1, 0) - np.roll(curve, 1, 0)
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], 1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    sag = normal + np.array([0.0, 0.75])
    y = curve[:, 1]
    cheeks = np.exp(-(((y - 66) / 10) ** 2))
    crown = np.exp(-(((y - b.top) / 5) ** 2))
    shaggy = blend(t["coat_length"])
    curly = present(t["coat_curl"], 0.5)
    wire = present(t["coat_wire"], 0.5)
    tufts = 0.5 + 6.3 * shaggy + cheeks * 4.0 * present(t["cheek_fluff"], 0.5)
    tufts = tufts * (1 - 0.8 * curly)
    bulge = curly * (1.5 + 2.0 * shaggy) + crown * (4.5 * present(t["topknot"], 0.5))
    heights = (tufts * _SPIKES)[:, None] * sag + (2.6 * wire * _WIRES * (1 - curly))[:, None] * sag
    heights += (bulge + 2.6 * curly * (_CURLS - 0.5))[:, None] * normal
    heights += (crown * 4.0 * present(t["topknot"], 0.5) * _SPIKES)[:, None] * normal
    return np.asarray(np.array([50.0, 0.0]) + curve + heights)


def body_outline(t: dict[str, float]) -> np.ndarray:
    """Neck and shoulders down to the lower edge, shape (n, 2)."""
    neck = between(19.0, 27.0, t["neck_width"])
    s = np.linspace(0, 1, 15)
    x = neck + (48 - neck) * (0.25 * s + 0.75 * s**2.2)
    y = 66 + 36 * s
    tuft = blend(t["coat_length"]) * 1.8 * np.where(np.arange(15) % 2 == 0, 1, -0.4)
    right = np.stack([50 + x + tuft, y], 1)
    return np.concatenate([right, right[::-1] * np.array([-1, 1]) + np.array([100, 0])])
