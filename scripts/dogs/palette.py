"""Coat colours of a dog, from its traits."""

from dataclasses import dataclass

import numpy as np

from scripts.dogs.attributes import between, blend, present, ramp

Colour = np.ndarray  # float64 (3,), 0..255

# Corners of a cube of coat colours: [light][warm][red].
_COATS = np.array(
    [
        [[(30, 29, 33), (78, 90, 108)], [(82, 48, 30), (126, 50, 24)]],
        [[(240, 236, 228), (200, 198, 199)], [(232, 196, 138), (214, 120, 48)]],
    ],
    dtype=np.float64,
)
_MARKS = np.array(
    [
        [(32, 30, 34), (92, 50, 28)],
        [(238, 232, 222), (206, 134, 66)],
    ],
    dtype=np.float64,
)
WHITE = np.array([246.0, 242.0, 234.0])
BLACK = np.array([26.0, 24.0, 27.0])
TAN = np.array([198.0, 124.0, 58.0])


def mixed(first: np.ndarray, second: np.ndarray, weight: float) -> np.ndarray:
    """Blend from first at weight 0 to second at weight 1."""
    return np.asarray(first + (second - first) * weight)


@dataclass(frozen=True)
class Palette:
    """The colours of one dog."""

    coat: Colour
    mark: Colour
    ear: Colour
    body: Colour
    lightness: float  # of the coat, 0..1


def palette_of(t: dict[str, float]) -> Palette:
    """The colours of a dog with traits t."""
    light, warm, red = (blend(t[name]) for name in ("coat_light", "coat_warm", "coat_red"))
    coat = mixed(_COATS[0], _COATS[1], light)
    coat = mixed(mixed(coat[0, 0], coat[0, 1], red), mixed(coat[1, 0], coat[1, 1], red), warm)
    coat = coat * (1 + 0.10 * t["coat_dilute"]) + 12 * t["coat_dilute"]
    coat = coat + np.array([9.0, 1.0, -9.0]) * t["coat_tint"]
    lightness = float(coat @ np.array([0.3, 0.59, 0.11])) / 255
    # Markings tend to be light on dark coats and dark on light ones.
    mark_light = ramp(0.55 * t["mark_light"] - 0.75 * t["coat_light"])
    marks = mixed(_MARKS[0], _MARKS[1], mark_light)
    mark = mixed(marks[0], marks[1], blend(t["mark_warm"]))
    ear = mixed(coat, mark, present(t["ear_mark"], 0.6)) * between(1.08, 0.55, t["ear_dark"])
    body = mixed(coat, mark, 0.85 * present(t["body_mark"], 0.5))
    body = body * between(0.74, 1.12, t["body_light"])
    return Palette(
        np.clip(coat, 14, 250), mark, np.clip(ear, 10, 250), np.clip(body, 10, 250), lightness
    )
