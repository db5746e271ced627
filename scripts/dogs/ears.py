"""Outlines of the ears, in percent of the frame (x right, y down)."""

from dataclasses import dataclass

import numpy as np

from scripts.dogs.attributes import between, blend, present, step
from scripts.dogs.shapes import Build


@dataclass(frozen=True)
class Ear:
    """An ear.

    Attributes:
        outline, inner: polygons (n, 2) of the ear and of its visible inside.
        spine: points (n, 2) from the root to the tip.
        position: 0 pricked to 1 hanging, uniform over dogs but for the gain of the traits.
        drop: 0 while the root is upright to 1 hanging.
    """

    outline: np.ndarray
    inner: np.ndarray
    spine: np.ndarray
    position: float
    drop: float


_S = np.linspace(0.0, 1.0, 33)


def _walk(x: float, y: float, angle: np.ndarray, length: float) -> np.ndarray:
    """Points (n, 2) of a curve of this length from (x, y); angles are clockwise from up."""
    step = length / (len(angle) - 1)
    return np.stack([x + step * np.cumsum(np.sin(angle)), y - step * np.cumsum(np.cos(angle))], 1)


def _ribbon(spine: np.ndarray, angle: np.ndarray, width: np.ndarray) -> np.ndarray:
    """The polygon (2 n, 2) around a spine (n, 2) with the directions (n,) and half widths (n,)."""
    half = np.stack([np.cos(angle), np.sin(angle)], 1) * width[:, None]
    return np.concatenate([spine + half, (spine - half)[::-1]])


def _profiles(t: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Half widths (n,) of a pricked and of a hanging ear, as parts of the ear's width."""
    rounded = 0.5 * (t["ear_round"] + 1)
    point = (1 - _S) ** 0.75 * (1 + 0.45 * _S)
    oval = np.sqrt(np.maximum(1 - _S**4.5, 0)) * (0.78 + 0.75 * _S * (1 - 0.45 * _S))
    broad = np.sqrt(np.maximum(1 - _S**5, 0)) * (0.55 + 0.95 * _S * (1.25 - 0.6 * _S))
    tapering = np.sqrt(np.maximum(1 - _S**1.8, 0)) * (0.75 + 1.25 * _S * (1 - 0.7 * _S))
    return point + (oval - point) * 0.5 * rounded, tapering + (broad - tapering) * rounded


def ear_of(b: Build, t: dict[str, float], side: int) -> Ear:
    """The ear on one side (-1 left in the picture, 1 right).

    From pricked to hanging its tip first bends outwards and down, then its root turns outwards
    while the bend moves towards it, and it gets longer.
    """
    own = t["ear_left"] if side < 0 else t["ear_right"]
    position = 0.5 + 0.5 * (0.92 * t["ear_drop"] + 0.08 * own)
    turned = step((position - 0.4) / 0.6)
    bent = 0.6 * step(position / 0.5) + 0.4 * turned
    low = 0.5 * (t["ear_set"] + 1)
    lean = np.radians(2 + 34 * low)
    root_angle = lean + (np.radians(70 + 28 * low) - lean) * turned
    crease = between(0.36, 0.62, t["ear_fold"]) * (1 - turned) + 0.13 * turned
    bend = 1 / (1 + np.exp(-(_S - crease) / (0.05 + 0.07 * turned)))
    bend = (bend - bend[0]) / (bend[-1] - bend[0])
    angle = root_angle + (np.radians(188) - root_angle) * bent * bend
    # Thick hair would hide short ears.
    thick = 3.5 * blend(t["coat_length"]) + 2.5 * present(t["coat_curl"], 0.5)
    upright = between(20, 34, t["ear_length"]) + thick
    length = upright + (between(27, 50, t["ear_length"]) - upright) * turned
    root = np.array([b.skull * (0.50 + 0.18 * low), b.top + 7.0 + 6.0 * low])
    root += (np.array([b.skull * (0.66 + 0.12 * low), b.top + 8.5 + 6.0 * low]) - root) * turned
    pricked, hanging = _profiles(t)
    width = between(7.6, 13.0, t["ear_width"]) * (1 - 0.22 * turned)
    width = width * (pricked + (hanging - pricked) * turned)
    fringe = present(t["ear_fringe"], 0.5) * (0.4 + blend(t["coat_length"]))
    width = width * (1 + 0.26 * fringe * np.where(np.arange(len(_S)) % 3 == 0, 1, -0.4) * _S)
    spine = _walk(float(root[0]), float(root[1]), angle, length)
    place, shift = np.array([side, 1.0]), np.array([50.0, 0.0])
    inside = slice(0, 29)
    inner = _ribbon(spine[inside], angle[inside], width[inside] * 0.6 * (1 - bent))
    return Ear(
        outline=_ribbon(spine, angle, width) * place + shift,
        inner=inner * place + shift,
        spine=spine * place + shift,
        position=position,
        drop=turned,
    )
