"""Drawings of layer maps: which block of one model comes from which block of another."""

from huref.lineage.evidence import LayerMap
from huref.report.canvas import Box, Canvas, Words
from huref.report.lettering import shorten

MARGIN = 14.0
CAPTION = 34.0
LONGEST = 220.0  # of a side, whatever the number of blocks
NARROWEST = 3.0


def draw_layer_map(found: LayerMap, a: str, b: str) -> Canvas:
    """Rows are blocks of B, columns are blocks of A, the shade is the share of corresponding units.

    The source of each block of B is framed.
    """
    rows, columns = len(found.b_layers), len(found.a_layers)
    cell = max(min(22.0, LONGEST / max(rows, columns, 1)), NARROWEST)
    left, top = MARGIN + CAPTION, MARGIN + CAPTION
    wide, tall = max(columns * cell, 150.0), max(rows * cell, 110.0)
    width, height = left + wide + MARGIN, top + tall + MARGIN
    words = f"Blocks of {b} against blocks of {a}"
    canvas = Canvas(width, height, words, describe_sources(found))
    canvas.add(Words(left, MARGIN + 2, shorten(a, wide, 11), 11))
    canvas.add(Words(MARGIN + 2, top, shorten(b, tall, 11), 11, align="end", upright=True))
    for i, b_layer in enumerate(found.b_layers):
        y = top + i * cell
        if _numbered(i, rows, cell):
            canvas.add(Words(left - 5, y + cell / 2, str(b_layer), 9.5, "muted", "end"))
        for j, a_layer in enumerate(found.a_layers):
            x, share = left + j * cell, float(found.share[j, i])
            if i == 0 and _numbered(j, columns, cell):
                place = (x + cell / 2, top - 8, str(a_layer), 9.5, "muted", "middle")
                canvas.add(Words(*place))
            tip = f"block {b_layer}, block {a_layer}: {100 * share:.0f} % of units correspond"
            canvas.add(Box(x, y, cell - 1, cell - 1, "line", 0.35, tip=tip))
            if share > 0:
                canvas.add(Box(x, y, cell - 1, cell - 1, "heat", min(share, 1.0), tip=tip))
            if found.source[i] == a_layer:
                canvas.add(Box(x, y, cell - 1, cell - 1, "ink", outlined=True))
    return canvas


def _numbered(index: int, count: int, cell: float) -> bool:
    return index % max(1, round(18 / cell)) == 0 or (cell >= 14 and index == count - 1)


def describe_sources(found: LayerMap) -> str:
    """The sources of B's blocks in words: "0-3 from 0-3, 4 from 6, 5 from none"."""
    runs: list[tuple[int, int, int | None, int | None]] = []
    for b, a in zip(found.b_layers, found.source, strict=True):
        if runs:
            first, last, start, stop = runs[-1]
            follows = a is None if stop is None else a == stop + 1
            if b == last + 1 and follows:
                runs[-1] = (first, b, start, a)
                continue
        runs.append((b, b, a, a))
    return ", ".join(
        f"{_range(first, last)} from {'none' if start is None else _range(start, stop)}"
        for first, last, start, stop in runs
    )


def _range(first: int | None, last: int | None) -> str:
    return str(first) if first == last else f"{first}-{last}"
