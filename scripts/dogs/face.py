"""Nose, mouth and beard, drawn over the head."""

import numpy as np
import skia

from scripts.dogs.attributes import between, blend, extent, opaque, present
from scripts.dogs.ink import INK, argb, curve, fill, pen
from scripts.dogs.palette import Palette, mixed
from scripts.dogs.shapes import Build, polygon

_RNG = np.random.default_rng(31)
# Locks of the beard: position across the muzzle, length, lean.
_BEARD = np.stack([np.linspace(-1, 1, 23), _RNG.uniform(0.6, 1, 23), _RNG.uniform(-1, 1, 23)], 1)


def draw_mouth(canvas: skia.Canvas, b: Build, p: Palette, t: dict[str, float]) -> None:
    """Draw the mouth with tongue, lips, jowls and the line up to the nose."""
    opened = present(t["mouth_open"], 0.65)
    half = between(9.0, 13.5, t["mouth_width"]) * (0.7 + 0.02 * b.muzzle)
    corner = b.mouth + between(1.8, -4.2, t["smile"])
    droop = b.mouth + between(0.8, 4.0, t["jowl"])
    depth = -1.0 + 8.5 * opened
    lip_l, lip_r = (50 - half, corner), (50 + half, corner)
    cavity = curve(
        lip_l,
        (50 - 0.5 * half, droop + 2),
        (50, b.mouth),
        (50 + 0.5 * half, droop + 2),
        lip_r,
        (50 + 0.75 * half, b.mouth + 1.35 * depth + 1),
        (50, b.mouth + depth + 2.5),
        (50 - 0.75 * half, b.mouth + 1.35 * depth + 1),
        lip_l,
        close=True,
    )
    canvas.drawPath(cavity, fill(np.array([70.0, 20.0, 28.0]), opaque(opened)))
    canvas.drawPath(cavity, pen(INK, 0.9, 0.9 * opaque(opened)))
    wide = between(3.0, 6.4, t["tongue_width"])
    tip = b.mouth + 1.2 + opened * between(3.0, 17.0, t["tongue_length"])
    tongue = curve(
        (50 - 0.8 * wide, b.mouth + 1.5),
        (50 - 1.25 * wide, tip),
        (50, tip),
        (50 + 1.25 * wide, tip),
        (50 + 0.8 * wide, b.mouth + 1.5),
        close=True,
    )
    shade = skia.GradientShader.MakeLinear(
        [skia.Point(50, b.mouth), skia.Point(50, b.mouth + 14)],
        [
            skia.ColorSetARGB(int(255 * opaque(opened)), 176, 58, 78),
            skia.ColorSetARGB(int(255 * opaque(opened)), 246, 132, 142),
        ],
    )
    canvas.drawPath(tongue, skia.Paint(AntiAlias=True, Shader=shade))
    canvas.drawPath(tongue, pen(np.array([110.0, 24.0, 44.0]), 0.7, 0.8 * opaque(opened)))
    canvas.drawLine(
        50,
        b.mouth + 2,
        50,
        tip - 2.5,
        pen(np.array([150.0, 44.0, 66.0]), 0.9, 0.7 * opaque(opened)),
    )
    line = 0.7 * INK
    lips = curve(
        lip_l,
        (50 - 0.55 * half, droop + 4.2),
        (50, b.mouth - 0.4),
        (50 + 0.55 * half, droop + 4.2),
        lip_r,
    )
    canvas.drawPath(lips, pen(line, 1.25, 0.92))
    canvas.drawLine(50, b.nose + 3, 50, b.mouth - 0.2, pen(line, 1.15, 0.9))
    freckles = present(t["freckles"], 0.5)
    for side in (-1, 1):
        for dx, dy in ((6.4, 4.4), (9.6, 1.6), (10.4, 5.6)):
            x = 50 + side * dx * (0.4 + b.muzzle / 26)
            canvas.drawCircle(x, b.nose + dy - 0.6, extent(freckles, 0.0, 1.3), fill(line, 0.9))


def draw_nose(canvas: skia.Canvas, b: Build, t: dict[str, float]) -> None:
    """Draw the nose with nostrils, shading and a highlight."""
    w = between(6.0, 8.6, t["nose_width"]) * (0.72 + 0.017 * b.muzzle)
    h = between(3.6, 5.6, t["nose_height"])
    y = b.nose
    pink = present(t["nose_pink"], 0.5)
    colour = mixed(INK * 1.3, np.array([104.0, 62.0, 46.0]), present(t["nose_light"], 0.5))
    colour = mixed(colour, np.array([222.0, 138.0, 134.0]), pink)
    shape = curve(
        (50 - w, y - 0.35 * h),
        (50 - 0.95 * w, y - h),
        (50 - 0.3 * w, y - h),
        (50, y - 1.02 * h),
        (50 + 0.3 * w, y - h),
        (50 + 0.95 * w, y - h),
        (50 + w, y - 0.35 * h),
        (50 + 0.95 * w, y + 0.35 * h),
        (50 + 0.38 * w, y + 0.7 * h),
        (50, y + 1.25 * h),
        (50 - 0.38 * w, y + 0.7 * h),
        (50 - 0.95 * w, y + 0.35 * h),
        (50 - w, y - 0.35 * h),
        close=True,
    )
    shade = skia.GradientShader.MakeRadial(
        skia.Point(50 - 0.15 * w, y - 0.75 * h),
        1.5 * w,
        [argb(colour * 1.25 + 42), argb(colour), argb(colour * 0.6)],
        [0.0, 0.5, 1.0],
    )
    canvas.drawPath(shape, skia.Paint(AntiAlias=True, Shader=shade))
    canvas.drawPath(shape, pen(INK * 0.6, 0.8, 0.75))
    for side in (-1, 1):
        nostril = curve(
            (50 + side * 0.24 * w, y + 0.28 * h),
            (50 + side * 0.45 * w, y - 0.35 * h),
            (50 + side * 0.78 * w, y + 0.02 * h),
            (50 + side * 0.62 * w, y + 0.34 * h),
            (50 + side * 0.24 * w, y + 0.28 * h),
            close=True,
        )
        canvas.drawPath(nostril, fill(INK * 0.3, 0.92))
    shine = skia.Rect.MakeXYWH(50 - 0.42 * w, y - 0.84 * h, 0.7 * w, 0.34 * h)
    canvas.drawOval(shine, fill(np.array([255.0, 250.0, 250.0]), 0.5))


def draw_beard(canvas: skia.Canvas, b: Build, p: Palette, t: dict[str, float]) -> None:
    """Draw hair on the chin and a moustache beside the nose."""
    grown = present(t["beard"], 0.5)
    light = blend(t["beard_light"])
    base = mixed(mixed(p.coat * 0.58, INK, 0.1), mixed(p.coat, np.full(3, 246.0), 0.6), light)
    base = mixed(base, np.array([242.0, 238.0, 230.0]), 0.75 * present(t["muzzle_colour"], 0.5))
    base = mixed(base, INK * 1.6, 0.8 * present(-t["muzzle_colour"], 0.5))
    for tone, shift in ((0.62, 0), (0.84, 1), (1.04, 2)):
        points = []
        for number, (place, size, turn) in enumerate(_BEARD.tolist()):
            x = 50 + place * 0.88 * b.muzzle
            root = b.chin - 2.0 - 1.2 * shift - 7.5 * place**2
            own = 1.0 if number % 3 == shift else 0.55
            length = (15.5 - 1.5 * shift) * grown * size * own * (1 - 0.4 * abs(place))
            points += [
                (x - 0.9, root + 0.25 * length),
                (x + (1.2 * turn + 2 * place) * grown, root + length),
            ]
        rise = [
            (50 + place * 0.88 * b.muzzle, b.chin - 4.5 - 7.5 * place**2 + 1.2 * shift)
            for place in np.linspace(1, -1, 9).tolist()
        ]
        canvas.drawPath(polygon(np.array(points + rise)), fill(base * tone, opaque(grown)))
    bushy = present(t["moustache"], 0.5)
    for side in (-1, 1):
        for tone, number in ((0.8, 3), (0.96, 2), (1.1, 1), (0.9, 0)):
            x, y = 50 + side * (2.0 + 2.4 * number), b.nose + 4.4 + 0.3 * number
            reach = 12.5 * bushy * (1 - 0.10 * number)
            tip = (x + side * reach * 0.75, y + reach * 0.8)
            lock = curve(
                (x - side * 1.2, y - 1.4),
                (x + side * 3.6, y - 1.5),
                tip,
                (x + side * 0.2, y + 0.6 * reach),
                (x - side * 1.2, y - 1.4),
                close=True,
            )
            canvas.drawPath(lock, fill(base * tone, 0.95 * opaque(bushy)))
