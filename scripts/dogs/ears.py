"""Outlines of the ears, in percent of the frame (x right, y down)."""

from dataclasses import dataclass

import numpy as np

from scripts.dogs.attributes import between, present, ramp
from scripts.dogs.shapes import Build


@dataclass(frozen=True)
class Ear:
    """An ear.

    Attributes:
        base, flap: polygons (n, 2) of the parts below and beyond the crease.
        inner: polygon (n, 2) of its inside.
        spine: points (n, 2) from the root to the tip.
        drop: 0 upright to 1 hanging.
        fold: how far the flap covers the base, 0 to 1.
    """

    base: np.ndarray
    flap: np.ndarray
    inner: np.ndarray
    spine: np.ndarray
    drop: float
    fold: float


_S = np.linspace(0.0, 1.0, 29)
_CREASE = 14  # where an ear folds, an index into _S


@dataclass(frozen=True)
class _Ribbon:
    """A band: spine (n, 2), direction (n,) of its width in radians, half width (n,)."""

    spine: np.ndarray
    angle: np.ndarray
    width: np.ndarray

    def towards(self, other: "_Ribbon", share: float) -> "_Ribbon":
        """Interpolate to another band, point by point."""
        return _Ribbon(
            self.spine + (other.spine - self.spine) * share,
            self.angle + (other.angle - self.angle) * share,
            self.width + (other.width - self.width) * share,
        )

    def outline(self, rows: slice, scale: float = 1.0, inward: float = 0.0) -> np.ndarray:
        """The polygon (n, 2) around some rows, scaled in width and shifted inwards."""
        half = np.stack([np.cos(self.angle), np.sin(self.angle)], 1) * self.width[:, None]
        middle, half = (self.spine - inward * half)[rows], scale * half[rows]
        return np.concatenate([middle + half, (middle - half)[::-1]])


def _walk(x: float, y: float, angle: np.ndarray, length: float) -> np.ndarray:
    """Points (n, 2) of a curve of this length from (x, y); angles are clockwise from up."""
    step = length / (len(angle) - 1)
    return np.stack([x + step * np.cumsum(np.sin(angle)), y - step * np.cumsum(np.cos(angle))], 1)


def _upright_ear(b: Build, t: dict[str, float], low: float, fold: float) -> _Ribbon:
    """An upright ear whose tip may be folded over towards the eye."""
    # Thick hair would hide short ears.
    thick = 3.5 * ramp(t["coat_length"], 0.15, 0.7) + 3 * present(t["coat_curl"], 0.22)
    length = (between(21, 32, t["ear_length"]) + thick) * (1 + 0.22 * fold)
    angle = np.full(len(_S), np.radians(6 + 32 * low))
    spine = _walk(b.skull * (0.50 + 0.18 * low), b.top + 7.0 + 6.0 * low, angle, length)
    # Folding rotates the tip about the crease, out of the picture plane and down.
    tip = spine[_CREASE:] - spine[_CREASE]
    outward = np.linalg.norm(tip, axis=1)[:, None] * np.array([0.42, 0.10])
    spine[_CREASE:] = spine[_CREASE] + tip * np.cos(0.97 * np.pi * fold) + outward * fold
    round_tip = (0.20 - 0.10 * fold) * (t["ear_round"] + 1)
    pointed = (1 - _S) ** 0.75 * (1 + 0.45 * _S)
    rounded = np.sqrt(np.maximum(1 - _S**4.5, 0)) * (0.78 + 0.75 * _S * (1 - 0.45 * _S))
    width = between(8.2, 12.6, t["ear_width"]) * (pointed + (rounded - pointed) * round_tip)
    return _Ribbon(spine, angle, width)


def _hanging_ear(b: Build, t: dict[str, float], low: float, grown: float) -> _Ribbon:
    """An ear that hangs down beside the cheek."""
    length = between(29, 52, t["ear_length"]) * (0.62 + 0.38 * grown)
    bend = 1 / (1 + np.exp(-(_S - 0.13) / 0.12))
    angle = np.radians(70 + 32 * low + (128 - 30 * low) * (bend - bend[0]))
    root = (b.skull * (0.66 + 0.12 * low), b.top + 8.5 + 6.0 * low)
    broad = np.sqrt(np.maximum(1 - _S**5, 0)) * (0.55 + 0.95 * _S * (1.25 - 0.6 * _S))
    tapering = np.sqrt(np.maximum(1 - _S**1.8, 0)) * (0.75 + 1.25 * _S * (1 - 0.7 * _S))
    width = broad + (tapering - broad) * 0.5 * (1 - t["ear_round"])
    # Rotated by pi, so that the width has the direction of a folded tip's.
    return _Ribbon(
        _walk(*root, angle, length), angle - np.pi, between(6.2, 10.4, t["ear_width"]) * width
    )


def ear_of(b: Build, t: dict[str, float], side: int) -> Ear:
    """The ear on one side (-1 left in the picture, 1 right).

    From upright to hanging its tip first folds over, then moves down beside the head, then gets
    longer. Every step is small: the decoder has to learn each intermediate position, and an ear
    that swung down in a wide arc would be blurred in its pictures.
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
