"""The error of a sketch's ICS against its size, as a picture."""

import math
from pathlib import Path

import numpy as np

from huref.decoder.picture import write_png
from huref.registry.sketch import KEPT
from huref.report.canvas import Canvas, Disc, Line, Words
from huref.report.palette import Paint
from huref.report.portraits import Portraits
from huref.report.raster import rasterise
from scripts.benchmark.registry.errors import LIMIT, METHODS, SIZES, Error, theory
from scripts.benchmark.registry.families import M

WIDTH, HEIGHT = 720.0, 420.0
LEFT, RIGHT, TOP, BOTTOM = 70.0, 210.0, 44.0, 56.0
LOWEST, HIGHEST = 0.004, 0.2
TICKS = (0.005, 0.01, 0.02, 0.05, 0.1)
PAINTS: dict[str, Paint] = dict(zip(METHODS, ("descends", "heat", "shared"), strict=True))


def _place(size: float, error: float) -> tuple[float, float]:
    across = math.log2(size / SIZES[0]) / math.log2(SIZES[-1] / SIZES[0])
    up = math.log(error / LOWEST) / math.log(HIGHEST / LOWEST)
    return (
        LEFT + across * (WIDTH - LEFT - RIGHT),
        HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
    )


def draw(errors: list[Error], path: Path) -> None:
    """Write a PNG: for each way of comparing the 99th centile, and theory's for strangers."""
    title = "Error of the ICS by a sketch, 99 of 100 pairs below"
    canvas = Canvas(WIDTH, HEIGHT, title)
    canvas.add(Words(LEFT, 18, title, 14))
    for tick in TICKS:
        (x, y), (end, _) = _place(SIZES[0], tick), _place(SIZES[-1], tick)
        canvas.add(Line(((x, y), (end, y)), "line", 1.0, dashed=tick != LIMIT))
        canvas.add(Words(x - 8, y, f"{tick:g}", 12, "muted", "end"))
    for kept in SIZES:
        x, y = _place(kept, LOWEST)
        weight: Paint = "ink" if kept == KEPT else "muted"
        canvas.add(Words(x, y + 16, f"{6 * kept // 8:,}", 12, weight, "middle"))
    canvas.add(Words((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "bytes of a sketch", 12, "muted",
                     "middle"))  # fmt: skip
    for method in METHODS:
        points = []
        for kept in SIZES:
            away = [abs(e.error) for e in errors
                    if (e.kept, e.method, e.shared) == (kept, method, M)]  # fmt: skip
            points.append(_place(kept, float(np.quantile(away, 0.99))))
        expected = [_place(kept, 2.576 * theory(kept, method)) for kept in SIZES]
        canvas.add(Line(tuple(expected), PAINTS[method], 1.0, dashed=True))
        canvas.add(Line(tuple(points), PAINTS[method], 2.0))
        canvas.add(*(Disc(x, y, 3.5, PAINTS[method]) for x, y in points))
        canvas.add(Words(points[-1][0] + 12, points[-1][1], method, 12, PAINTS[method]))
    end = WIDTH - RIGHT + 12
    canvas.add(Words(end, HEIGHT - BOTTOM - 4, "dashed: theory, strangers", 11, "muted"))
    write_png(path, rasterise(canvas, Portraits(())), {"Title": title})
