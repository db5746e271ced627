"""Eyes and brows, drawn over the head."""

import numpy as np
import skia

from scripts.dogs.attributes import between, blend, grown, normal, present
from scripts.dogs.ink import INK, argb, curve, fill, pen
from scripts.dogs.palette import Palette, mixed
from scripts.dogs.shapes import EYE_LINE, Build, polygon

_AMBER, _BROWN = np.array([205.0, 138.0, 42.0]), np.array([92.0, 50.0, 22.0])
_BLUE = np.array([108.0, 180.0, 232.0])


def draw_eyes(canvas: skia.Canvas, b: Build, p: Palette, t: dict[str, float]) -> None:
    """Draw both eyes with lids, rims and catch-lights."""
    radius = between(4.8, 7.0, t["eye_size"])
    warm = mixed(_BROWN, _AMBER, blend(t["eye_light"]))
    blue, odd = normal(t["eye_blue"]), normal(t["eye_odd"])
    for side in (-1, 1):
        iris = mixed(warm, _BLUE, grown(0.75 * blue + 0.66 * side * odd, 0.4))
        _draw_eye(canvas, 50 + side * b.eye_gap, side, radius, iris, p, t)


def _draw_eye(
    canvas: skia.Canvas,
    x: float,
    side: int,
    radius: float,
    iris: np.ndarray,
    p: Palette,
    t: dict[str, float],
) -> None:
    y = EYE_LINE
    slant = between(-0.24, 0.12, t["eye_slant"]) * radius
    lid = between(0.05, 0.7, t["eye_lid"]) * radius
    outer, inner = x + side * radius * 1.28, x - side * radius * 1.22
    almond = curve(
        (outer, y - slant),
        (x + side * 0.55 * radius, y - 1.75 * radius + lid - slant),
        (x - side * 0.1 * radius, y - 1.02 * radius + 0.5 * lid),
        (x - side * 0.9 * radius, y - 0.85 * radius + 0.4 * lid),
        (inner, y + slant + 0.10 * radius),
        (x - side * 0.35 * radius, y + 1.35 * radius),
        (x + side * 0.25 * radius, y + 1.0 * radius),
        (x + side * 1.0 * radius, y + 0.85 * radius),
        (outer, y - slant),
        close=True,
    )
    rim = mixed(INK, np.array([150.0, 92.0, 84.0]), 0.75 * present(t["nose_pink"], 0.5))
    canvas.drawPath(almond, pen(rim, between(1.3, 2.6, t["eye_rim"]), 0.95))
    white = mixed(
        np.array([120.0, 104.0, 96.0]),
        np.array([246.0, 242.0, 236.0]),
        blend(t["eye_sclera"]),
    )
    canvas.drawPath(almond, fill(white))
    canvas.save()
    canvas.clipPath(almond, True)
    centre, size = skia.Point(x - side * 0.06 * radius, y + 0.04 * radius), 1.08 * radius
    shade = skia.GradientShader.MakeRadial(
        skia.Point(centre.x(), centre.y() + 0.45 * radius),
        1.35 * size,
        [argb(iris * 1.22 + 14), argb(iris), argb(iris * 0.42)],
        [0.0, 0.48, 1.0],
    )
    canvas.drawCircle(centre, size, skia.Paint(AntiAlias=True, Shader=shade))
    canvas.drawCircle(centre, size, pen(INK, 0.16 * radius, 0.85))
    canvas.drawCircle(centre, between(0.42, 0.62, t["pupil"]) * radius, fill(INK * 0.5))
    canvas.restore()
    top = curve(
        (outer, y - slant),
        (x + side * 0.55 * radius, y - 1.75 * radius + lid - slant),
        (x - side * 0.1 * radius, y - 1.02 * radius + 0.5 * lid),
        (x - side * 0.9 * radius, y - 0.85 * radius + 0.4 * lid),
        (inner, y + slant + 0.10 * radius),
    )
    canvas.drawPath(top, pen(INK, 0.26 * radius, 0.9))
    white = np.array([255.0, 255.0, 255.0])
    canvas.drawCircle(x - 0.34 * radius, y - 0.34 * radius, 0.27 * radius, fill(white, 0.97))
    canvas.drawCircle(x + 0.36 * radius, y + 0.42 * radius, 0.13 * radius, fill(white, 0.6))


def draw_brows(canvas: skia.Canvas, b: Build, p: Palette, t: dict[str, float]) -> None:
    """Draw a tuft of hair over each eye."""
    light = blend(t["brow_light"])
    colour = mixed(mixed(p.coat * 0.45, INK, 0.3), mixed(p.coat, np.full(3, 250.0), 0.6), light)
    length = 1.6 + 5.6 * present(t["brow_length"], 0.6)
    y = EYE_LINE - between(7.5, 12.5, t["brow_height"])
    for side in (-1, 1):
        points = []
        for number in range(5):
            s = number / 4
            x = 50 + side * (b.eye_gap - 4.0 + 8 * s)
            base = y - 2.2 * np.sin(np.pi * (0.15 + 0.7 * s))
            points += [
                (x - side * 1.0, base + 0.2),
                (
                    x + side * (0.2 + 0.42 * length * (s - 0.25)),
                    base + length * (1.05 - 0.35 * abs(s - 0.4)),
                ),
            ]
        points.append((50 + side * (b.eye_gap + 5.0), y - 1.0))
        points.append((50 + side * (b.eye_gap + 1.0), y - 4.2))
        points.append((50 + side * (b.eye_gap - 4.0), y - 2.0))
        opacity = between(0.6, 0.95, t["brow_length"]) * 0.85
        canvas.drawPath(polygon(np.array(points)), fill(colour, opacity))
