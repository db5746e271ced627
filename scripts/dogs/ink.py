"""Paints and paths for skia, from arrays and points."""

import numpy as np
import skia

INK = np.array([22.0, 16.0, 18.0])


def argb(colour: np.ndarray, opacity: float = 1.0) -> int:
    """Pack a colour in 0..255 and an opacity in 0..1 into skia's integer."""
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


def curve(*points: tuple[float, float], close: bool = False) -> skia.Path:
    """A path of quadratic curves: start, then control and end point alternately."""
    path = skia.PathBuilder()
    path.moveTo(*points[0])
    for control, end in zip(points[1::2], points[2::2], strict=True):
        path.quadTo(*control, *end)
    if close:
        path.close()
    return path.detach()
