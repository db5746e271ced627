"""The heat map of a table: similarity and verdict of every pair."""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from huref.lineage.build_forest import ics_or_cosine
from huref.lineage.table import LineageTable, Pair
from huref.report.canvas import Box, Canvas, Disc, Dog, Line, Mark, Point, Words
from huref.report.lettering import shorten, width_of
from huref.report.palette import VERDICT_PAINTS

MARGIN = 20.0
TREE = 96.0  # width of the dendrogram
WIDEST_NAME = 190.0
LEGEND_LINE = 24.0
NUMBERED = 28.0  # width of a cell from which its number fits


@dataclass(frozen=True)
class _Grid:
    """The order of the models, the corner of the first cell, and the side of a cell."""

    order: list[int]
    left: float
    top: float
    cell: float

    def corner(self, row: int, column: int) -> tuple[float, float]:
        return self.left + column * self.cell, self.top + row * self.cell


def cluster(table: LineageTable) -> tuple[np.ndarray, list[int]]:
    """Average linkage on 1 - ICS: scipy's linkage matrix (n - 1, 4), and the order of the leaves.

    Of all orders that fit the dendrogram, it is the one whose neighbours are most similar.
    """
    count = len(table.records)
    distances = np.zeros((count, count))
    for (i, j), pair in zip(combinations(range(count), 2), table.pairs, strict=True):
        distances[i, j] = distances[j, i] = 1 - min(max(ics_or_cosine(pair), 0.0), 1.0)
    condensed = squareform(distances, checks=False)
    linkage = hierarchy.linkage(condensed, "average", optimal_ordering=count <= 200)
    return linkage, [int(leaf) for leaf in hierarchy.leaves_list(linkage)]


def draw_heatmap(table: LineageTable) -> Canvas:
    """ICS below the diagonal, verdicts above it, dogs on it.

    Without verdicts both halves show the ICS.
    """
    count = len(table.records)
    cell = 64.0 if count <= 6 else 46.0 if count <= 12 else 30.0 if count <= 24 else 18.0
    size = 14.0 if cell > 40 else 12.0 if cell > 24 else 11.0
    linkage, order = cluster(table)
    names = [shorten(label, WIDEST_NAME, size) for label in table.labels]
    widest = max(width_of(name, size) for name in names)
    left = MARGIN + TREE + widest + cell + 22
    grid = _Grid(order, left, MARGIN + widest + 12, cell)
    side = count * cell
    width = max(left + side + MARGIN, 640.0)
    canvas = Canvas(width, 0.0, f"Similarity of {count} models", _describe(table, order))
    _draw_dendrogram(canvas, linkage, grid)
    _draw_names(canvas, grid, names, size)
    _draw_cells(canvas, table, grid)
    decided = any(pair.evidence.verdict for pair in table.pairs)
    canvas.height = _draw_legend(canvas, grid, decided)
    return canvas


def _draw_dendrogram(canvas: Canvas, linkage: np.ndarray, grid: _Grid) -> None:
    drawing = hierarchy.dendrogram(linkage, no_plot=True)
    right, tall = MARGIN + TREE, max(float(linkage[:, 2].max()), 1e-9)
    for across, along in zip(drawing["icoord"], drawing["dcoord"], strict=True):
        points = tuple(
            (right - TREE * height / tall, grid.top + place / 10 * grid.cell)
            for place, height in zip(across, along, strict=True)
        )
        tip = f"joined at a mean ICS of {1 - max(along):.2f}"
        canvas.add(Line(points, "branch", 1.4, tip=tip))


def _draw_names(canvas: Canvas, grid: _Grid, names: list[str], size: float) -> None:
    side = grid.cell * 0.88
    for place, model in enumerate(grid.order):
        x, y = grid.corner(place, place)
        middle = y + grid.cell / 2
        left = MARGIN + TREE + 8
        canvas.add(Dog(left, middle - side / 2, side, model, names[model]))
        canvas.add(Words(left + side + 6, middle, names[model], size))
        x += grid.cell / 2
        canvas.add(Words(x, grid.top - 8, names[model], size, upright=True))


def _draw_cells(canvas: Canvas, table: LineageTable, grid: _Grid) -> None:
    place = {model: row for row, model in enumerate(grid.order)}
    labels = table.labels
    for (i, j), pair in zip(combinations(range(len(table.records)), 2), table.pairs, strict=True):
        tip = _tip(labels[i], labels[j], pair)
        row, column = sorted((place[i], place[j]), reverse=True)
        _draw_value(canvas, grid, row, column, pair, tip)
        if pair.evidence.verdict is None:
            _draw_value(canvas, grid, column, row, pair, tip)
        else:
            x, y = grid.corner(column, row)
            _draw_ground(canvas, (x, y), grid.cell, None, tip)
            centre = (x + grid.cell / 2, y + grid.cell / 2)
            canvas.add(*verdict_marks(pair.evidence.verdict, centre, grid.cell))
    for row, model in enumerate(grid.order):
        x, y = grid.corner(row, row)
        inset = 0.04 * grid.cell
        canvas.add(Dog(x + inset, y + inset, 0.92 * grid.cell, model, labels[model]))


def _draw_ground(canvas: Canvas, corner: Point, cell: float, heat: float | None, tip: str) -> None:
    gap = 1.0 if cell > 24 else 0.5
    place = (corner[0] + gap, corner[1] + gap, cell - 2 * gap, cell - 2 * gap)
    if heat is None:
        canvas.add(Box(*place, "line", 0.3, tip=tip))
    else:
        canvas.add(Box(*place, "heat", 0.04 + 0.96 * heat, tip=tip))


def _draw_value(canvas: Canvas, grid: _Grid, row: int, column: int, pair: Pair, tip: str) -> None:
    x, y = grid.corner(row, column)
    s = pair.similarity
    unknown = s.ics is None and s.latent_cosine is None
    heat = min(max(ics_or_cosine(pair), 0.0), 1.0)
    _draw_ground(canvas, (x, y), grid.cell, None if unknown else heat, tip)
    if grid.cell < NUMBERED:
        return
    text = "-" if unknown else _figure(ics_or_cosine(pair))
    size = min(grid.cell * 0.29, 15.0) if grid.cell > 40 else 10.5
    if s.ics is None and not unknown:  # a picture holds only the latent
        text, size = f"z {text}", size * 0.85
    paint = "paper" if heat > 0.55 else "ink"
    canvas.add(Words(x + grid.cell / 2, y + grid.cell / 2, text, size, paint, "middle"))


def _figure(value: float) -> str:
    return f"{round(value, 2) + 0:.2f}"


def verdict_marks(verdict: str, centre: Point, cell: float) -> list[Mark]:
    """The sign of a verdict; signs differ in shape as well as in colour."""
    (x, y), paint, radius = centre, VERDICT_PAINTS[verdict], min(0.26 * cell, 11.0)
    if verdict == "descends":
        return [Disc(x, y, radius, paint)]
    if verdict == "shared initialisation":
        return [Disc(x, y, radius, paint, False), Disc(x, y, 0.35 * radius, paint)]
    if verdict == "contains parts":
        return [Disc(x, y, 0.5 * radius, paint)]
    if verdict == "unrelated":
        return [Line(((x - 0.5 * radius, y), (x + 0.5 * radius, y)), paint, 1.8)]
    return [Words(x, y, "?", 1.9 * radius, paint, "middle")]


def _tip(a: str, b: str, pair: Pair) -> str:
    s, e = pair.similarity, pair.evidence
    figure = f"ICS {_figure(s.ics)}" if s.ics is not None else "no ICS"
    if s.ics is None and s.latent_cosine is not None:
        figure = f"cos z {_figure(s.latent_cosine)}"
    return f"{a} / {b}: {figure}" + (f", {e.verdict}" if e.verdict else "")


def _draw_legend(canvas: Canvas, grid: _Grid, decided: bool) -> float:
    y = grid.top + len(grid.order) * grid.cell + 26
    x = MARGIN
    canvas.add(Words(x, y, "ICS  0", 12, "muted"))
    x += width_of("ICS  0", 12) + 8
    for step in range(11):
        canvas.add(Box(x + 14 * step, y - 7, 14.0, 14.0, "heat", 0.04 + 0.96 * step / 10))
    canvas.add(Words(x + 14 * 11 + 8, y, "1", 12, "muted"))
    x += 14 * 11 + 40
    if not decided:
        return y + LEGEND_LINE
    for verdict in VERDICT_PAINTS:
        needed = 22 + width_of(verdict, 12) + 20
        if x + needed > canvas.width - MARGIN:
            x, y = MARGIN, y + LEGEND_LINE
        canvas.add(*verdict_marks(verdict, (x + 8, y), 30))
        canvas.add(Words(x + 22, y, verdict, 12, "muted"))
        x += needed
    return y + LEGEND_LINE


def _describe(table: LineageTable, order: list[int]) -> str:
    names = ", ".join(table.labels[model] for model in order[:60])
    known = [ics_or_cosine(pair) for pair in table.pairs]
    high = sum(value > 0.5 for value in known if not math.isnan(value))
    return f"Models in the order of the map: {names}. Pairs above 0.5: {high} of {len(known)}."
