"""Eyes, brows, nose, mouth and beard, drawn over the head."""

import numpy as np
import skia

from dogs.attributes import between, present, ramp
from dogs.coat import Palette, mixed
from dogs.shapes import EYE_LINE, Build, polygon

_AMBER, _BROWN = np.array([205.0, 138.0, 42.0]), np.array([92.0, 50.0, 22.0])
_BLUE, _GREEN = np.array([108.0, 180.0, 232.0]), np.array([150.0, 172.0, 88.0])
_INK = np.array([22.0, 16.0, 18.0])
_RNG = np.random.default_rng(31)
_BEARD = np.stack([np.linspace(-1, 1, 23), _RNG.uniform(0.6, 1, 23), _RNG.uniform(-1, 1, 23)], 1)


def argb(colour: np.ndarray, opacity: float = 1.0) -> int:
    """A colour in 0..255 and an opacity in 0..1 as skia's packed integer."""
    r, g, b = (int(min(max(part, 0.0), 255.0) + 0.5) for part in colour.tolist())
    return int(skia.ColorSetARGB(int(255 * min(max(opacity, 0.0), 1.0) + 0.5), r, g, b))


def fill(colour: np.ndarray, opacity: float = 1.0) -> skia.Paint:
    """Antialiased filling."""
    return skia.Paint(AntiAlias=True, Color=argb(colour, opacity))


def pen(colour: np.ndarray, width: float, opacity: float = 1.0) -> skia.Paint:
    """Antialiased round pen."""
    return skia.Paint(
        AntiAlias=True,
        Style=skia.Paint.kStroke_Style,
        StrokeWidth=width,
        StrokeCap=skia.Paint.kRound_Cap,
        StrokeJoin=skia.Paint.kRound_Join,
        Color=argb(colour, opacity),
    )


def _curve(*points: tuple[float, float], close: bool = False) -> skia.Path:
    """A path of quadratic curves: start, then control and end by turns."""
    path = skia.PathBuilder()
    path.moveTo(*points[0])
    for control, end in zip(points[1::2], points[2::2], strict=True):
        path.quadTo(*control, *end)
    if close:
        path.close()
    return path.detach()


def draw_eyes(canvas: skia.Canvas, b: Build, p: Palette, t: dict[str, float]) -> None:
    """Both eyes, with lids, rims and catch-lights."""
    radius = between(5.0, 6.7, t["eye_size"])
    warm = mixed(_BROWN, _AMBER, present(t["eye_light"], 0.38))
    warm = mixed(warm, _GREEN, 0.35 * ramp(t["eye_light"] + t["eye_blue"], 0.9, 0.4))
    blue, odd = present(t["eye_blue"], 0.2), present(abs(t["eye_odd"]), 0.09)
    for side in (-1, 1):
        mine = ramp(side * t["eye_odd"], 0.0, 0.6) * odd
        iris = mixed(warm, _BLUE, blue + mine - 2 * blue * mine)
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
    almond = _curve(
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
    rim = mixed(_INK, np.array([150.0, 92.0, 84.0]), 0.75 * present(t["nose_pink"], 0.18))
    canvas.drawPath(almond, pen(rim, between(1.3, 2.6, t["eye_rim"]), 0.95))
    white = mixed(
        np.array([120.0, 104.0, 96.0]),
        np.array([246.0, 242.0, 236.0]),
        present(t["eye_sclera"], 0.35),
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
    canvas.drawCircle(centre, size, pen(_INK, 0.16 * radius, 0.85))
    canvas.drawCircle(centre, between(0.42, 0.62, t["pupil"]) * radius, fill(_INK * 0.5))
    canvas.restore()
    top = _curve(
        (outer, y - slant),
        (x + side * 0.55 * radius, y - 1.75 * radius + lid - slant),
        (x - side * 0.1 * radius, y - 1.02 * radius + 0.5 * lid),
        (x - side * 0.9 * radius, y - 0.85 * radius + 0.4 * lid),
        (inner, y + slant + 0.10 * radius),
    )
    canvas.drawPath(top, pen(_INK, 0.26 * radius, 0.9))
    white = np.array([255.0, 255.0, 255.0])
    canvas.drawCircle(x - 0.34 * radius, y - 0.34 * radius, 0.27 * radius, fill(white, 0.97))
    canvas.drawCircle(x + 0.36 * radius, y + 0.42 * radius, 0.13 * radius, fill(white, 0.6))


def draw_brows(canvas: skia.Canvas, b: Build, p: Palette, t: dict[str, float]) -> None:
    """A tuft of hair over each eye."""
    light = ramp(t["brow_light"], 0.0, 0.5)
    colour = mixed(mixed(p.coat * 0.45, _INK, 0.3), mixed(p.coat, np.full(3, 250.0), 0.6), light)
    length = 1.0 + 4.6 * present(t["brow_length"], 0.35)
    y = EYE_LINE - between(7.0, 11.0, t["brow_height"])
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
        points.append((50 + side * (b.eye_gap + 1.0), y - 3.6))
        points.append((50 + side * (b.eye_gap - 4.0), y - 2.0))
        opacity = between(0.4, 0.95, t["brow_length"]) * (0.5 + 0.5 * abs(t["brow_light"]))
        canvas.drawPath(polygon(np.array(points)), fill(colour, opacity))


def draw_mouth(canvas: skia.Canvas, b: Build, p: Palette, t: dict[str, float]) -> None:
    """Open mouth with tongue, lips, jowls and the line up to the nose."""
    opened = present(t["mouth_open"], 0.5)
    half = between(9.0, 13.5, t["mouth_width"]) * (0.7 + 0.02 * b.muzzle)
    corner = b.mouth + between(1.8, -4.2, t["smile"])
    droop = b.mouth + between(0.8, 4.0, t["jowl"])
    depth = 0.2 + 7.3 * opened
    lip_l, lip_r = (50 - half, corner), (50 + half, corner)
    cavity = _curve(
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
    canvas.drawPath(cavity, fill(np.array([70.0, 20.0, 28.0]), min(1.0, 1.25 * opened)))
    canvas.drawPath(cavity, pen(_INK, 0.9, 0.9 * opened))
    wide = between(3.0, 6.4, t["tongue_width"])
    tip = b.mouth + 2.2 + opened * between(3.5, 15.0, t["tongue_length"])
    tongue = _curve(
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
            skia.ColorSetARGB(int(255 * opened), 176, 58, 78),
            skia.ColorSetARGB(int(255 * opened), 246, 132, 142),
        ],
    )
    canvas.drawPath(tongue, skia.Paint(AntiAlias=True, Shader=shade))
    canvas.drawPath(tongue, pen(np.array([110.0, 24.0, 44.0]), 0.7, 0.8 * opened))
    canvas.drawLine(
        50, b.mouth + 2, 50, tip - 2.5, pen(np.array([150.0, 44.0, 66.0]), 0.9, 0.7 * opened)
    )
    dark = ramp(p.lightness + 0.5 * t["muzzle_colour"], 0.12, 0.3)
    line = mixed(np.array([6.0, 5.0, 7.0]), _INK, dark)
    lips = _curve(
        lip_l,
        (50 - 0.55 * half, droop + 4.2),
        (50, b.mouth - 0.4),
        (50 + 0.55 * half, droop + 4.2),
        lip_r,
    )
    canvas.drawPath(lips, pen(line, 1.25, 0.92))
    canvas.drawLine(50, b.nose + 3, 50, b.mouth - 0.2, pen(line, 1.15, 0.9))
    freckle = fill(line, 0.75 * present(t["freckles"], 0.5))
    for side in (-1, 1):
        for dx, dy in ((6.2, 3.2), (8.6, 5.0), (9.4, 2.2), (6.6, 6.2), (11.4, 4.2)):
            x = 50 + side * dx * (0.4 + b.muzzle / 26)
            canvas.drawCircle(x, b.nose + dy - 0.6, 0.72, freckle)


def draw_nose(canvas: skia.Canvas, b: Build, t: dict[str, float]) -> None:
    """A shaded nose with nostrils and a highlight."""
    w = between(6.0, 8.6, t["nose_width"]) * (0.72 + 0.017 * b.muzzle)
    h = between(3.6, 5.6, t["nose_height"])
    y = b.nose
    pink = present(t["nose_pink"], 0.18)
    colour = mixed(_INK * 1.3, np.array([104.0, 62.0, 46.0]), present(t["nose_light"], 0.3))
    colour = mixed(colour, np.array([222.0, 138.0, 134.0]), pink)
    shape = _curve(
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
    canvas.drawPath(shape, pen(_INK * 0.6, 0.8, 0.75))
    for side in (-1, 1):
        nostril = _curve(
            (50 + side * 0.24 * w, y + 0.28 * h),
            (50 + side * 0.45 * w, y - 0.35 * h),
            (50 + side * 0.78 * w, y + 0.02 * h),
            (50 + side * 0.62 * w, y + 0.34 * h),
            (50 + side * 0.24 * w, y + 0.28 * h),
            close=True,
        )
        canvas.drawPath(nostril, fill(_INK * 0.3, 0.92))
    shine = skia.Rect.MakeXYWH(50 - 0.42 * w, y - 0.84 * h, 0.7 * w, 0.34 * h)
    canvas.drawOval(shine, fill(np.array([255.0, 250.0, 250.0]), 0.5))


def draw_beard(canvas: skia.Canvas, b: Build, p: Palette, t: dict[str, float]) -> None:
    """Hair hanging from the chin, and a moustache beside the nose."""
    grown = present(t["beard"], 0.25)
    light = ramp(t["beard_light"], 0.0, 0.5)
    base = mixed(mixed(p.coat * 0.58, _INK, 0.1), mixed(p.coat, np.full(3, 246.0), 0.6), light)
    base = mixed(base, np.array([242.0, 238.0, 230.0]), 0.75 * present(t["muzzle_colour"], 0.34))
    base = mixed(base, _INK * 1.6, 0.8 * present(-t["muzzle_colour"], 0.28))
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
        canvas.drawPath(polygon(np.array(points + rise)), fill(base * tone, min(1.0, 1.2 * grown)))
    bushy = present(t["moustache"], 0.27)
    for side in (-1, 1):
        for tone, number in ((0.8, 3), (0.96, 2), (1.1, 1), (0.9, 0)):
            x, y = 50 + side * (2.0 + 2.4 * number), b.nose + 4.4 + 0.3 * number
            reach = (3 + 9.5 * bushy) * (1 - 0.10 * number)
            tip = (x + side * reach * 0.75, y + reach * 0.8)
            lock = _curve(
                (x - side * 1.2, y - 1.4),
                (x + side * 3.6, y - 1.5),
                tip,
                (x + side * 0.2, y + 0.6 * reach),
                (x - side * 1.2, y - 1.4),
                close=True,
            )
            canvas.drawPath(lock, fill(base * tone, 0.95 * bushy))
