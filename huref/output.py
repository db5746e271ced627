"""How results look: tables for people, and JSON, CSV and Markdown for programs."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from itertools import combinations

from huref.lineage.table import LineageTable, Pair

COLUMNS = ("a", "b", "ICS", "qk", "vo", "ffn", "anchors", "cos z")
DETAILED = 6  # up to so many models the terminal shows every pair with its terms


def _figure(value: float | None, digits: int = 4) -> str:
    # Adding 0 turns the minus zero of a tiny negative number into plain zero.
    return "-" if value is None else f"{round(value, digits) + 0:.{digits}f}"


def _cells(pair: Pair) -> list[str]:
    s = pair.similarity
    terms = s.terms or {}
    return [
        pair.a,
        pair.b,
        _figure(s.ics),
        *(_figure(terms.get(name)) for name in ("qk", "vo", "ffn")),
        "-" if s.shared_anchors is None else str(s.shared_anchors),
        _figure(s.latent_cosine),
    ]


def align(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Rows of text in columns; the first `left` columns are aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def as_json(table: LineageTable) -> str:
    """The design's `compare --json`."""
    return json.dumps(table.to_json(), indent=2, ensure_ascii=False)


def as_csv(table: LineageTable) -> str:
    """One line a pair, full precision; a figure that could not be had is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["a", "b", "ics", "qk", "vo", "ffn", "shared_anchors", "latent_cosine", "why"])
    for pair in table.pairs:
        s = pair.similarity
        terms = s.terms or {}
        figures = [s.ics, *(terms.get(n) for n in ("qk", "vo", "ffn"))]
        writer.writerow([pair.a, pair.b, *figures, s.shared_anchors, s.latent_cosine, s.why])
    return buffer.getvalue().rstrip("\n")


def as_markdown(table: LineageTable) -> str:
    """One row a pair."""
    rows = [list(COLUMNS), ["---"] * 2 + ["---:"] * (len(COLUMNS) - 2)]
    rows += [[cell.replace("|", "\\|") for cell in _cells(pair)] for pair in table.pairs]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def as_text(table: LineageTable) -> str:
    """A matrix of ICS (of latent cosines where weights are missing), then pairs and reasons."""
    labels = table.labels
    cells = [["1.00"] * len(labels) for _ in labels]
    named = list(zip(combinations(range(len(labels)), 2), table.pairs, strict=True))
    for (i, j), pair in named:
        ics, cosine = pair.similarity.ics, pair.similarity.latent_cosine
        shown = cosine is not None and ics is None
        cell = f"z {_figure(cosine, 2)}" if shown else _figure(ics, 2)
        cells[i][j] = cells[j][i] = cell
    rows = [["ICS", *labels], *([label, *row] for label, row in zip(labels, cells, strict=True))]
    lines = align(rows, left=1)
    if len(labels) <= DETAILED:
        detailed = [[labels[i], labels[j], *_cells(pair)[2:]] for (i, j), pair in named]
        lines += ["", *align([list(COLUMNS), *detailed], left=2)]
    reasons: dict[str, list[str]] = {}
    for (i, j), pair in named:
        if pair.similarity.why:
            reasons.setdefault(pair.similarity.why, []).append(f"{labels[i]} / {labels[j]}")
    notes = [f"{why}: {', '.join(pairs)}" for why, pairs in reasons.items()]
    return "\n".join([*lines, *([""] if notes else []), *notes])


FORMATS: dict[str, Callable[[LineageTable], str]] = {
    "text": as_text,
    "json": as_json,
    "csv": as_csv,
    "md": as_markdown,
}
