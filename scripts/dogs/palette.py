"""Coat colours of a dog, from its traits."""

from dataclasses import dataclass

import numpy as np

from scripts.dogs.attributes import between, ramp

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


def _sharp(value: float) -> float:
    return ramp(value, 0.0, 0.44)


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
    light, warm, red = (_sharp(t[name]) for name in ("coat_light", "coat_warm", "coat_red"))
    coat = mixed(_COATS[0], _COATS[1], light)
    coat = mixed(mixed(coat[0, 0], coat[0, 1], red), mixed(coat[1, 0], coat[1, 1], red), warm)
    coat = coat * (1 + 0.10 * t["coat_dilute"]) + 12 * t["coat_dilute"]
    coat = coat + np.array([9.0, 1.0, -9.0]) * t["coat_tint"]
    lightness = float(coat @ np.array([0.3, 0.59, 0.11])) / 255
    # Markings contrast with the coat: dark dogs get light marks, light dogs dark ones.
    on_dark = ramp(0.36 - lightness, 0.0, 0.16)
    mark_light = on_dark + (1 - on_dark) * 0.45 * _sharp(t["mark_light"] - 0.5)
    marks = mixed(_MARKS[0], _MARKS[1], mark_light)
    mark = mixed(marks[0], marks[1], _sharp(t["mark_warm"]))
    mark = mixed(mark, coat, 0.22 * _sharp(t["mark_light"]))
    ear_dark, ear_marked = ramp(-t["ear_dark"], 0.2, 0.5), ramp(t["ear_dark"], 0.05, 0.5)
    ear = mixed(coat * between(0.62, 0.86, -t["ear_dark"]), mark, 0.92 * ear_marked)
    ear = mixed(ear, coat, 0.5 * ear_dark)
    body = coat * between(0.78, 1.1, t["body_light"])
    return Palette(np.clip(coat, 14, 250), mark, ear, np.clip(body, 10, 250), lightness)
