"""Lineage tables as text, JSON, CSV, Markdown and LaTeX."""

import csv
import io
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations

from huref import escape
from huref.cli import options
from huref.lineage.calibration import is_calibrated, load_calibration
from huref.lineage.table import LineageTable, Pair
from huref.report.wording import tower_sentences

COLUMNS = ("a", "b", "ICS", "anchors", "cos z", "units", "log10 p", "verdict", "older")
LEFT = ("a", "b", "verdict", "older")  # columns of text, aligned left
CSV_COLUMNS = (
    "a", "b", "ics", "qk", "vo", "ffn", "shared_anchors", "latent_cosine", "units_matched",
    "units_of", "layer", "log10_p", "test", "verdict", "older", "why",
)  # fmt: skip
SHORTEST = 8  # characters of a shortened name
DETAILED = 6  # the terminal shows every pair with its reason up to this number of models


def _figure(value: float | None, digits: int = 4) -> str:
    # Adding 0 turns the minus zero of a tiny negative number into plain zero.
    return "-" if value is None else f"{round(value, digits) + 0:.{digits}f}"


def _cells(pair: Pair) -> list[str]:
    s, e = pair.similarity, pair.evidence
    return [
        pair.a,
        pair.b,
        _figure(s.ics),
        "-" if s.shared_anchors is None else str(s.shared_anchors),
        _figure(s.latent_cosine),
        "-" if e.units is None else f"{e.units.matched}/{e.units.of}",
        _figure(e.log10_p, 1) if e.test != "agreement" else f"{_figure(e.log10_p, 1)}*",
        e.verdict or "-",
        pair.older or "-",
    ]


def align(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Rows of text in columns; the first `left` columns are aligned left, the others right.

    Cells are escaped for the terminal.
    """
    rows = [[escape.terminal(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def as_json(table: LineageTable) -> str:
    """What `huref compare --json` prints."""
    return options.as_json(table.to_json())


def as_csv(table: LineageTable) -> str:
    """One line a pair, full precision; a missing figure is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for pair in table.pairs:
        s, e = pair.similarity, pair.evidence
        terms = [(s.terms or {}).get(name) for name in ("qk", "vo", "ffn")]
        units = (None,) * 3 if e.units is None else (e.units.matched, e.units.of, e.units.layer)
        similarity = (s.ics, *terms, s.shared_anchors, s.latent_cosine)
        evidence = (*units, e.log10_p, e.test, e.verdict, pair.older)
        row = [pair.a, pair.b, *similarity, *evidence, pair.why]
        writer.writerow(map(escape.csv_cell, row))
    return buffer.getvalue().rstrip("\n")


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun, as "1 model" or "1,234 models"; `plural` is for irregular nouns."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def as_markdown(table: LineageTable) -> str:
    """One row a pair."""
    rows = [list(COLUMNS), ["---" if name in LEFT else "---:" for name in COLUMNS]]
    rows += [[escape.markdown(cell) for cell in _cells(pair)] for pair in table.pairs]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def as_text(table: LineageTable, width: int | None = None) -> str:
    """A matrix of ICS, or of latent cosines where weights are missing; then pairs and verdicts.

    Args:
        table: at least two models.
        width: of the terminal, in characters; None does not limit lines.
    """
    lines = [*_wrapped(map(escape.terminal, tower_sentences(table)), width)]
    lines += [*_matrix(table, width), ""]
    if len(table.labels) <= DETAILED:
        pairs = _pair_table(table)
        if width is None or len(pairs[0]) <= width:
            lines += [*pairs, ""]
            lines += _reasons(table, width, [""] * len(table.pairs))
        else:
            lines += _reasons(table, width, [_figures_in_words(pair) for pair in table.pairs])
    else:
        number = counted(len(table.pairs), "pair")
        hint = f"all {number} with their figures: --csv, --md, --json, or -o report.html"
        lines += _wrapped([*_summary(table), "", hint], width)
    lines += _wrapped(_mixtures(table), width)
    lines += _components(table, width)
    if any(pair.evidence.test == "agreement" for pair in table.pairs):
        lines += ["", "* calibrated on independently trained models; the other p-values are exact"]
    if (calibration := load_calibration()) and is_calibrated(table):
        lines += ["", *_wrapped([str(calibration)], width)]
    return "\n".join(lines)


def _labels(table: LineageTable) -> list[str]:
    """Short names for the terminal."""
    return [escape.terminal(label) for label in table.labels]


def _matrix(table: LineageTable, width: int | None) -> list[str]:
    """Similarities of all pairs. Where names are too wide, columns are numbered."""
    labels = _labels(table)
    cells = [["1.00"] * len(labels) for _ in labels]
    for (i, j), pair in zip(combinations(range(len(labels)), 2), table.pairs, strict=True):
        ics, cosine = pair.similarity.ics, pair.similarity.latent_cosine
        is_cosine = cosine is not None and ics is None
        cell = f"z {_figure(cosine, 2)}" if is_cosine else _figure(ics, 2)
        cells[i][j] = cells[j][i] = cell
    rows = [["ICS", *labels], *([label, *row] for label, row in zip(labels, cells, strict=True))]
    lines = align(rows, left=1)
    if width is None or len(lines[0]) <= width:
        return lines
    numbers = [str(i + 1) for i in range(len(labels))]
    others = max(map(len, align([numbers, *cells], left=0))) + len(numbers[-1]) + 4
    if width - others < SHORTEST:
        return [f"the matrix of {len(labels)} models does not fit the terminal; see --csv"]
    names = [shorten_middle(label, width - others) for label in labels]
    rows = [["", "ICS", *numbers]]
    rows += [[n, *row] for n, *row in zip(numbers, names, *zip(*cells, strict=True), strict=True)]
    return align(rows, left=2)


def _pair_table(table: LineageTable) -> list[str]:
    """One line a pair."""
    labels = dict(zip(table.models, table.labels, strict=True))
    rows = [list(COLUMNS)]
    for (a, b), pair in zip(combinations(table.labels, 2), table.pairs, strict=True):
        older = labels[pair.older] if pair.older else "-"
        rows.append([a, b, *_cells(pair)[2:-1], older])
    return align(rows, left=2)


def _figures_in_words(pair: Pair) -> str:
    """The figures of a pair's line, for terminals that are too narrow for the table."""
    named = zip(COLUMNS[2:-2], _cells(pair)[2:-2], strict=True)
    figures = ", ".join(f"{name} {cell}" for name, cell in named if cell != "-")
    older = f"older: {pair.older}; " if pair.older else ""
    return f"{pair.evidence.verdict or 'no verdict'}; {figures}; {older}"


def _reasons(table: LineageTable, width: int | None, figures: Sequence[str]) -> Iterator[str]:
    """The reason of each verdict, with its figures in front, wrapped to the terminal."""
    named = combinations(table.labels, 2)
    for (a, b), pair, figure in zip(named, table.pairs, figures, strict=True):
        reason = escape.terminal(f"{a} / {b}: {figure}{pair.why}")
        yield from _wrapped([reason], width)


def _wrapped(lines: Iterable[str], width: int | None) -> Iterator[str]:
    """Lines broken at the width of the terminal, with an indent after each break."""
    for line in lines:
        if width is None or len(line) <= width:
            yield line
        else:
            yield from textwrap.wrap(line, width, subsequent_indent="    ")


def shorten_middle(name: str, width: int) -> str:
    """A name of at most `width` characters: its beginning, "…" and its end."""
    if len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}…{name[len(name) - end :]}"


def _summary(table: LineageTable) -> Iterator[str]:
    """The families, then all pairs that are shared initialisation, inconclusive or not compared."""
    labels = _labels(table)
    for family in table.families:
        yield "family: " + ", ".join(labels[i] for i in family)
    named = zip(combinations(range(len(labels)), 2), table.pairs, strict=True)
    others: dict[str, list[str]] = {}
    for (i, j), pair in named:
        verdict = pair.evidence.verdict
        if verdict in ("contains parts", "shared initialisation", "inconclusive"):
            others.setdefault(verdict, []).append(f"{labels[i]} / {labels[j]}")
        elif verdict is None:
            others.setdefault(escape.terminal(pair.why), []).append(f"{labels[i]} / {labels[j]}")
    for what, pairs in others.items():
        yield f"{what}: {', '.join(pairs)}"


def _mixtures(table: LineageTable) -> Iterator[str]:
    for mixing in table.mixings:
        child, parents = escape.terminal(mixing.child), map(escape.terminal, mixing.parents)
        how = "" if mixing.method is None else f" ({mixing.method})"
        if mixing.shares is None or mixing.low is None or mixing.high is None:
            yield f"{child} is a mixture{how} of {', '.join(parents)}: {mixing.why}"
            continue
        figures = zip(mixing.shares, mixing.low, mixing.high, parents, strict=True)
        parts = [
            f"{share:.2f} ({low:.2f} to {high:.2f}) of {parent}"
            for share, low, high, parent in figures
        ]
        base = "" if mixing.base is None else f", from the base {escape.terminal(mixing.base)}"
        yield f"{child} is a mixture{how}: {', '.join(parts)}{base}"


def _components(table: LineageTable, width: int | None) -> Iterator[str]:
    """With --components, a line for each part of each pair."""
    for (a, b), pair in zip(combinations(table.labels, 2), table.pairs, strict=True):
        if pair.evidence.components is None:
            continue
        yield from ("", escape.terminal(f"{a} / {b}, part by part:"))
        rows = [["part", "block", "figure", "strangers", "verdict"]]
        for part in pair.evidence.components:
            block = "-" if part.block is None else str(part.block)
            figures = [_figure(part.figure, 3), _figure(part.background, 3)]
            rows.append([part.part, block, *figures, part.verdict or "not decided"])
        yield from align(rows, left=1)


def as_latex(table: LineageTable) -> str:
    """One row a pair, as a tabular that needs no package."""
    columns = "".join("l" if name in LEFT else "r" for name in COLUMNS)
    rows = [" & ".join(map(escape.latex, _cells(pair))) + r" \\" for pair in table.pairs]
    head = " & ".join(escape.latex(name) for name in COLUMNS) + r" \\"
    body = [r"\hline", head, r"\hline", *rows, r"\hline"]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}"])


FORMATS: dict[str, Callable[[LineageTable], str]] = {
    "text": as_text,
    "json": as_json,
    "csv": as_csv,
    "md": as_markdown,
    "latex": as_latex,
}
