"""Outlines of head, ears and body, in percent of the frame (x right, y down).

The pose is the same for every dog: the head is centred at x = 50, the eye line lies at EYE_LINE.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import skia

from scripts.dogs.attributes import between, present, ramp

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
    # Tufts of unequal width, each leaning to one side.
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
    """Measures of a dog that several parts share, in percent of the frame."""

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
    """The measures that follow from the traits."""
    skull = between(26.0, 33.0, t["skull_width"])
    length = t["muzzle_length"]
    nose = between(60.5, 69.0, length)
    jaw = between(14.0, 24.5, t["jaw_width"]) + 0.35 * (skull - 29.5) - 2.5 * length
    return Build(
        skull=skull,
        cheek=0.6 * skull + 0.4 * (jaw + 6) + between(-1.5, 3.5, t["cheek"]),
        jaw=jaw,
        chin=between(81.0, 87.0, length) + 1.2 * t["chin"],
        top=between(24.0, 19.5, t["dome"]),
        muzzle=between(11.0, 21.5, t["muzzle_width"]) - 1.0 * length,
        muzzle_top=nose - between(7.0, 13.0, t["muzzle_height"]) - 2 * length,
        nose=nose,
        mouth=nose + 8.5,
        eye_gap=between(12.4, 15.2, t["eye_spacing"]),
    )


def head_outline(b: Build, t: dict[str, float]) -> np.ndarray:
    """Outline with its fur, shape (OUTLINE, 2), clockwise from the top."""
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
    shaggy = ramp(t["coat_length"], 0.15, 0.7)
    curly = present(t["coat_curl"], 0.22)
    wire = present(t["coat_wire"], 0.3)
    tufts = 0.5 + 6.3 * shaggy + cheeks * 4.0 * present(t["cheek_fluff"], 0.4)
    tufts = tufts * (1 - 0.8 * curly)
    bulge = curly * (1.5 + 2.0 * shaggy) + crown * (4.5 * present(t["topknot"], 0.3))
    heights = (tufts * _SPIKES)[:, None] * sag + (2.6 * wire * _WIRES * (1 - curly))[:, None] * sag
    heights += (bulge + 2.6 * curly * (_CURLS - 0.5))[:, None] * normal
    heights += (crown * 4.0 * present(t["topknot"], 0.3) * _SPIKES)[:, None] * normal
    return np.asarray(np.array([50.0, 0.0]) + curve + heights)


def body_outline(t: dict[str, float]) -> np.ndarray:
    """Neck and shoulders down to the lower edge, shape (n, 2)."""
    neck = between(19.0, 27.0, t["neck_width"])
    s = np.linspace(0, 1, 15)
    x = neck + (48 - neck) * (0.25 * s + 0.75 * s**2.2)
    y = 66 + 36 * s
    tuft = ramp(t["coat_length"], 0.15, 0.7) * 1.8 * np.where(np.arange(15) % 2 == 0, 1, -0.4)
    right = np.stack([50 + x + tuft, y], 1)
    return np.concatenate([right, right[::-1] * np.array([-1, 1]) + np.array([100, 0])])


@dataclass(frozen=True)
class Ear:
    """Polygons (n, 2) of an ear's two halves, below and beyond the crease, and of its inside.

    The spine runs from the root to the tip, shape (n, 2).
    """

    base: np.ndarray
    flap: np.ndarray
    inner: np.ndarray
    spine: np.ndarray
    drop: float  # 0 upright .. 1 hanging
    fold: float  # how far the flap lies over the base, 0..1


_S = np.linspace(0.0, 1.0, 29)
_CREASE = 14  # where an ear folds, an index into _S


@dataclass(frozen=True)
class _Ribbon:
    """An ear as a band: spine (n, 2), angle (n,) of its breadth in radians, half width (n,)."""

    spine: np.ndarray
    angle: np.ndarray
    width: np.ndarray

    def towards(self, other: "_Ribbon", share: float) -> "_Ribbon":
        """The band a share of the way to another, point by point."""
        return _Ribbon(
            self.spine + (other.spine - self.spine) * share,
            self.angle + (other.angle - self.angle) * share,
            self.width + (other.width - self.width) * share,
        )

    def outline(self, rows: slice, scale: float = 1.0, inward: float = 0.0) -> np.ndarray:
        """The closed edge of some rows of the band, (n, 2), narrowed and moved inwards."""
        half = np.stack([np.cos(self.angle), np.sin(self.angle)], 1) * self.width[:, None]
        middle, half = (self.spine - inward * half)[rows], scale * half[rows]
        return np.concatenate([middle + half, (middle - half)[::-1]])


def _walk(x: float, y: float, angle: np.ndarray, length: float) -> np.ndarray:
    """Points (n, 2) of a line of this length from (x, y), its direction clockwise from up."""
    step = length / (len(angle) - 1)
    return np.stack([x + step * np.cumsum(np.sin(angle)), y - step * np.cumsum(np.cos(angle))], 1)


def _upright_ear(b: Build, t: dict[str, float], low: float, fold: float) -> _Ribbon:
    """A pricked ear, or one whose tip is folded over towards the eye."""
    # Thick hair would hide short ears.
    thick = 3.5 * ramp(t["coat_length"], 0.15, 0.7) + 3 * present(t["coat_curl"], 0.22)
    length = (between(21, 32, t["ear_length"]) + thick) * (1 + 0.22 * fold)
    angle = np.full(len(_S), np.radians(6 + 32 * low))
    spine = _walk(b.skull * (0.50 + 0.18 * low), b.top + 7.0 + 6.0 * low, angle, length)
    # Folding turns the tip about the crease, out of the picture plane and down again.
    tip = spine[_CREASE:] - spine[_CREASE]
    outward = np.linalg.norm(tip, axis=1)[:, None] * np.array([0.42, 0.10])
    spine[_CREASE:] = spine[_CREASE] + tip * np.cos(0.97 * np.pi * fold) + outward * fold
    round_tip = (0.20 - 0.10 * fold) * (t["ear_round"] + 1)
    pointed = (1 - _S) ** 0.75 * (1 + 0.45 * _S)
    rounded = np.sqrt(np.maximum(1 - _S**4.5, 0)) * (0.78 + 0.75 * _S * (1 - 0.45 * _S))
    width = between(8.2, 12.6, t["ear_width"]) * (pointed + (rounded - pointed) * round_tip)
    return _Ribbon(spine, angle, width)


def _hanging_ear(b: Build, t: dict[str, float], low: float, grown: float) -> _Ribbon:
    """An ear that leaves the head sideways and hangs down beside the cheek."""
    length = between(29, 52, t["ear_length"]) * (0.62 + 0.38 * grown)
    bend = 1 / (1 + np.exp(-(_S - 0.13) / 0.12))
    angle = np.radians(70 + 32 * low + (128 - 30 * low) * (bend - bend[0]))
    root = (b.skull * (0.66 + 0.12 * low), b.top + 8.5 + 6.0 * low)
    broad = np.sqrt(np.maximum(1 - _S**5, 0)) * (0.55 + 0.95 * _S * (1.25 - 0.6 * _S))
    tapering = np.sqrt(np.maximum(1 - _S**1.8, 0)) * (0.75 + 1.25 * _S * (1 - 0.7 * _S))
    width = broad + (tapering - broad) * 0.5 * (1 - t["ear_round"])
    # Half a turn, so that the breadth of the flap points as that of a folded tip does.
    return _Ribbon(
        _walk(*root, angle, length), angle - np.pi, between(6.2, 10.4, t["ear_width"]) * width
    )


def ear_of(b: Build, t: dict[str, float], side: int) -> Ear:
    """The ear on one side (-1 left in the picture, 1 right).

    From pricked to hanging its tip first folds over, then slips down beside the head, then grows
    long. No step takes it far: an ear that swung down through the open air would be a blur in the
    decoder's pictures, which has to learn every place it passes.
    """
    own = t["ear_left"] if side < 0 else t["ear_right"]
    weight = t["ear_drop"] + 0.15 * own + 1.3 * present(t["coat_curl"], 0.22)
    folded = ramp(t["ear_fold"] + 0.12 * own, 0.2, 0.24)
    fold = 1 - (1 - folded) * (1 - ramp(weight, -0.34, 0.24))
    drop = ramp(weight, 0.05, 0.3)
    low = 0.5 * (t["ear_set"] + 1)
    upright = _upright_ear(b, t, low, fold)
    ear = upright.towards(_hanging_ear(b, t, low, ramp(weight, 0.5, 0.4)), drop)
    fringe = present(t["ear_fringe"], 0.35) * (0.4 + ramp(t["coat_length"], 0.15, 0.7))
    ear.width[:] *= 1 + 0.28 * fringe * np.where(np.arange(len(_S)) % 3 == 0, 1, -0.4) * _S
    place, shift = np.array([side, 1.0]), np.array([50.0, 0.0])
    return Ear(
        base=ear.outline(slice(0, _CREASE + 2)) * place + shift,
        flap=ear.outline(slice(_CREASE, None)) * place + shift,
        inner=ear.outline(slice(0, 26), 0.60, 0.06) * place + shift,
        spine=ear.spine * place + shift,
        drop=drop,
        fold=fold * (1 - drop**2),
    )
