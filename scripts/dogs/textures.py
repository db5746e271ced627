"""Fixed textures of fur and noise, the same for every dog and computed once per size.

A texture depends on the position only; the traits of a dog set how strongly it shows. Positions are
in percent of the frame, x to the right and y downwards.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import skia

FINE = 4  # supersampling of the strokes


@dataclass(frozen=True)
class Fields:
    """Float32 arrays (size, size).

    Textures of fur are in [-1, 1], where 0 changes nothing. Merle, brindle and ticking are heights:
    what lies above a level has that marking.
    """

    x: np.ndarray
    y: np.ndarray
    short: np.ndarray
    long: np.ndarray
    curl: np.ndarray
    wire: np.ndarray
    rough: np.ndarray
    warp: np.ndarray
    merle: np.ndarray
    brindle: np.ndarray
    ticking: np.ndarray


def _noise(size: int, cells: int, seed: int) -> np.ndarray:
    """Smooth noise of mean 0 and standard deviation 1, the same at every size."""
    rng = np.random.default_rng(seed)
    axis = (np.arange(size) + 0.5) / size
    total = np.zeros((size, size))
    for _ in range(60):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        rate = 2 * np.pi * cells * np.sqrt(rng.uniform(0.15, 1.0))
        wave = rate * (np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None])
        total += np.cos(wave + phase)
    return np.asarray(total / np.sqrt(30), dtype=np.float32)


def _flow(x: float, y: float) -> float:
    """Direction of fur in radians: away from the nose, and downwards below it."""
    dx, dy = x - 50.0, y - 60.0
    down = 1.0 / (1.0 + np.exp(-(y - 58.0) / 8.0))
    return float(np.arctan2(dy * (1 - down) + 18.0 * down, dx * (1 - 0.45 * down) + 1e-6))


def _strokes(
    size: int,
    count: int,
    length: float,
    width: float,
    bend: float,
    jitter: float,
    seed: int,
    deviation: float,
) -> np.ndarray:
    """Tapered light and dark strokes along the flow, as a texture in [-1, 1]."""
    rng = np.random.default_rng(seed)
    side = size * FINE
    surface = skia.Surface(side, side)
    canvas = surface.getCanvas()
    canvas.clear(skia.ColorGRAY)
    canvas.scale(side / 100, side / 100)
    for x, y, tone, turn, curve, scale in zip(
        rng.uniform(-4, 104, count),
        np.sort(rng.uniform(-4, 104, count)),
        rng.uniform(0, 1, count),
        rng.normal(0, jitter, count),
        rng.normal(0, bend, count),
        rng.uniform(0.6, 1.3, count),
        strict=True,
    ):
        angle = _flow(x, y) + turn
        along = np.array([np.cos(angle), np.sin(angle)]) * length * scale
        across = np.array([-along[1], along[0]])
        tip = np.array([x, y]) + along + across * curve
        middle = np.array([x, y]) + 0.5 * along
        half = across / np.linalg.norm(across) * width * scale
        path = skia.PathBuilder()
        path.moveTo(x - half[0] * 0.6, y - half[1] * 0.6)
        path.quadTo(middle[0] - half[0], middle[1] - half[1], tip[0], tip[1])
        path.quadTo(middle[0] + half[0], middle[1] + half[1], x + half[0] * 0.6, y + half[1] * 0.6)
        path.close()
        grey = int(20 + 215 * tone)
        canvas.drawPath(
            path.detach(), skia.Paint(AntiAlias=True, Color=skia.Color(grey, grey, grey, 190))
        )
    return _shrunk(surface, size, deviation)


def _rings(size: int, count: int, radius: float, seed: int, deviation: float) -> np.ndarray:
    """Curls, drawn as overlapping shaded discs with swirls, as a texture in [-1, 1]."""
    rng = np.random.default_rng(seed)
    side = size * FINE
    surface = skia.Surface(side, side)
    canvas = surface.getCanvas()
    canvas.clear(skia.ColorGRAY)
    canvas.scale(side / 100, side / 100)
    for x, y, scale, start in zip(
        rng.uniform(-3, 103, count),
        np.sort(rng.uniform(-3, 103, count)),
        rng.uniform(0.75, 1.25, count),
        rng.uniform(0, 360, count),
        strict=True,
    ):
        r = radius * scale
        shade = skia.GradientShader.MakeRadial(
            skia.Point(x - 0.3 * r, y - 0.4 * r),
            1.35 * r,
            [skia.Color(228, 228, 228), skia.Color(140, 140, 140), skia.Color(30, 30, 30)],
            [0.0, 0.55, 1.0],
        )
        canvas.drawCircle(x, y, r, skia.Paint(AntiAlias=True, Shader=shade))
        swirl = skia.Paint(
            AntiAlias=True,
            Style=skia.Paint.kStroke_Style,
            StrokeWidth=0.2 * r,
            StrokeCap=skia.Paint.kRound_Cap,
            Color=skia.Color(50, 50, 50, 150),
        )
        box = skia.Rect.MakeXYWH(x - 0.5 * r, y - 0.5 * r, r, r)
        canvas.drawArc(box, start, 230, False, swirl)
    return _shrunk(surface, size, deviation)


def _shrunk(surface: skia.Surface, size: int, deviation: float) -> np.ndarray:
    grey = surface.makeImageSnapshot().toarray()[..., 0].astype(np.float32)
    small = grey.reshape(size, FINE, size, FINE).mean((1, 3))
    # The deviation holds at 128 px: smaller portraits are shrunk from that.
    return np.asarray(np.clip((small - small.mean()) / (2.5 * deviation), -1, 1), dtype=np.float32)


def _dots(size: int, count: int, seed: int) -> np.ndarray:
    """Small dots: 1 at their centres, 0 at their edges and negative outside."""
    rng = np.random.default_rng(seed)
    axis = ((np.arange(size) + 0.5) * 100 / size).astype(np.float32)
    field = np.full((size, size), -9.0, dtype=np.float32)
    for x, y, r in zip(
        rng.uniform(5, 95, count),
        rng.uniform(15, 100, count),
        rng.uniform(0.6, 1.3, count),
        strict=True,
    ):
        distance = np.hypot(axis[None, :] - x, axis[:, None] - y)
        field = np.maximum(field, 1 - distance / r)
    return field


@lru_cache(maxsize=4)
def fields_for(size: int) -> Fields:
    """The fixed fields sampled at size x size pixels."""
    axis = ((np.arange(size) + 0.5) * 100 / size).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    long = _strokes(size, 2600, 9.0, 0.75, 0.25, 0.22, 2, 31.81)
    warp = _noise(size, 7, 11)
    stripes = np.sin((np.hypot(x - 50, (y - 70) * 1.1) + 2.2 * warp) * 1.25)
    return Fields(
        x=x,
        y=y,
        short=_strokes(size, 9000, 2.6, 0.34, 0.15, 0.2, 1, 19.16),
        long=long,
        curl=_rings(size, 1000, 3.6, 3, 36.51),
        wire=_strokes(size, 1800, 6.0, 0.5, 0.4, 0.75, 4, 20.41),
        rough=(0.6 * long + 0.4 * _noise(size, 16, 12)).astype(np.float32),
        warp=warp,
        merle=(_noise(size, 9, 14) + 0.25 * long).astype(np.float32),
        brindle=(stripes + 0.5 * _noise(size, 12, 15) + 0.3 * long).astype(np.float32),
        ticking=_dots(size, 240, 16),
    )
