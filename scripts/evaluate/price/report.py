"""docs/measured/price.md: a table, and a curve as SVG."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scripts.evaluate.attacks.report import HEADS as SETTINGS

Rows = Mapping[str, Any]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 400, 70, 60, 30
# Verdicts from the top of the picture downwards, with a shape that needs no colour.
VERDICTS = ("descends", "contains parts", "inconclusive", "shared initialisation", "unrelated")
COLOURS = {"blocks 1 and 2": "#1b6ca8", "all blocks": "#c0392b"}
HEADING = """# The price of hiding

Copies of {base} (perplexity {source:.2f} on source code that neither has seen) were trained to
predict what it predicts while their weights became others: `gradient-push` follows the gradient
away from the source's products and hidden units, `distilled-blocks` draws blocks anew and trains
them to do what they did. Once the blocks that the default recipe reads, once all of them. More
steps buy more distance, or bring perplexity back. Both train on {megabytes} MB of the text that
the source was trained on. Written by `python -m scripts.evaluate price`.

![Perplexity against verdict of each copy, by recipe, depth and trained blocks](price.svg)

| kind | blocks | steps | perplexity | {settings} | ICS, `function-1` |
| --- | --- | ---: | ---: | {rules} | ---: |
"""


def render(rows: Rows) -> str:
    """The page."""
    source = rows["source"]
    head = HEADING.format(
        base=source["base"], source=source["perplexity"], megabytes=3,
        settings=" | ".join(SETTINGS.values()), rules=" | ".join("---" for _ in SETTINGS),
    )  # fmt: skip
    lines = [_line(row, source["perplexity"]) for row in _copies(rows)]
    return head + "\n".join(lines) + "\n\n" + _cheapest(rows) + f"\nCode: {rows['code']}.\n"


def _copies(rows: Rows) -> list[Mapping[str, Any]]:
    return [row for key, row in rows.items() if key not in ("source", "code")]


def _line(row: Mapping[str, Any], source: float) -> str:
    change = 100 * (row["perplexity"] / source - 1)
    ics = row["ics"]["default"]
    cells = [
        row["kind"], row["blocks"], str(row["steps"]), f"{row['perplexity']:.2f} ({change:+.1f} %)",
        *(str(row["verdicts"][setting]) for setting in SETTINGS),
        "-" if ics is None else f"{ics:.2f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _cheapest(rows: Rows) -> str:
    """For each setting the least rise of perplexity at which a copy was not called descends."""
    source, lines = rows["source"]["perplexity"], []
    for setting, words in SETTINGS.items():
        hidden = [row for row in _copies(rows) if row["verdicts"][setting] != "descends"]
        if not hidden:
            lines.append(f"- {words}: all of these copies are *descends*.")
            continue
        best = min(hidden, key=lambda row: row["perplexity"])
        change = 100 * (best["perplexity"] / source - 1)
        lines.append(
            f"- {words}: the cheapest copy that is not *descends* costs {change:+.1f} % "
            f"({best['kind']}, {best['blocks']}, {best['steps']} steps: "
            f"*{best['verdicts'][setting]}*)."
        )
    return "\n".join(lines) + "\n"


def draw(rows: Rows) -> str:
    """The curve: perplexity to the right, verdicts by the default recipe as rows of marks."""
    copies = _copies(rows)
    source = rows["source"]["perplexity"]
    most = max([*(row["perplexity"] for row in copies), source * 1.1])
    shown = min(most, 1.5 * source)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for place, setting in enumerate(("default", "default full")):
        words = SETTINGS[setting].replace("`", "")
        parts += _panel(copies, setting, words, (place * WIDTH / 2, 0.0), (source, shown))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(
    copies: Sequence[Mapping[str, Any]],
    setting: str,
    words: str,
    at: tuple[float, float],
    span: tuple[float, float],
) -> Iterator[str]:
    (x0, y0), (low, high) = at, span
    width, height = WIDTH / 2, HEIGHT - BOTTOM - TOP

    def x_of(perplexity: float) -> float:
        share = (min(perplexity, high) - low) / (high - low)
        return x0 + LEFT + 70 + max(share, -0.02) * (width - LEFT - 90)

    yield f'<text x="{x0 + 12}" y="{y0 + 20}" font-weight="bold">{words}</text>'
    for number, verdict in enumerate(VERDICTS):
        y = y0 + TOP + 25 + number * (height - 40) / (len(VERDICTS) - 1)
        yield f'<text x="{x0 + LEFT + 58}" y="{y + 4}" text-anchor="end">{verdict}</text>'
        yield (f'<line x1="{x_of(low)}" x2="{x_of(high)}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        for row in copies:
            if row["verdicts"][setting] == verdict:
                yield _mark(row, x_of(row["perplexity"]), y)
    base = y0 + HEIGHT - BOTTOM + 5
    for share in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
        if low * (1 + share) <= high * 1.001:
            x = x_of(low * (1 + share))
            yield f'<text x="{x}" y="{base}" text-anchor="middle">+{100 * share:.0f} %</text>'
    if at == (0.0, 0.0):
        yield from _legend(y0 + HEIGHT - 30)
    yield f'<text x="{x0 + width - 20}" y="{base + 16}" text-anchor="end">perplexity</text>'


def _mark(row: Mapping[str, Any], x: float, y: float) -> str:
    colour = COLOURS[row["blocks"]]
    if row["kind"] == "gradient-push":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}" fill-opacity="0.7"/>'
    return (
        f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" fill="none" '
        f'stroke="{colour}" stroke-width="2"/>'
    )


def _legend(y: float) -> Iterator[str]:
    x = 12.0
    for blocks, colour in COLOURS.items():
        yield f'<circle cx="{x}" cy="{y + 17}" r="5" fill="{colour}"/>'
        yield f'<text x="{x + 9}" y="{y + 21}">{blocks}</text>'
        x += 115
    yield f'<text x="{x}" y="{y + 21}">disc: push, square: distilled</text>'
