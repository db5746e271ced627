"""How results show themselves in a notebook: HTML with the dogs, and PNG."""

import base64
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from huref.decoder.picture import Picture, as_png
from huref.escape import printable
from huref.lineage.table import LineageTable
from huref.report.portraits import draw_portraits
from huref.report.sentences import tell_table
from huref.report.sheet import draw_table
from huref.report.wording import figure

SIDE = 160  # pixels of a dog
MOST_DOGS = 24  # in the HTML of a table
MOST_ROWS = 60
BOX = "display:inline-block;vertical-align:top;margin:0 12px 12px 0;text-align:center"


def show_dog(image: Picture, name: str, words: str) -> Markup:
    """A dog with its name and a line of words below it."""
    small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    uri = base64.b64encode(as_png(np.asarray(small))).decode("ascii")
    return Markup(
        '<div style="{}"><img width="{}" height="{}" alt="The dog of {}" '
        'src="data:image/png;base64,{}"><br><b>{}</b><br>{}</div>'
    ).format(BOX, SIDE, SIDE, printable(name), uri, printable(name), printable(words))


def show_rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A table."""
    titles = Markup("").join(Markup("<th>{}</th>").format(title) for title in head)
    lines = [
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td>{}</td>").format(printable(cell)) for cell in row)
        )
        for row in rows
    ]
    body = Markup("").join(lines)
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(titles, body)


def show_table(table: LineageTable) -> str:
    """A comparison as HTML: the verdict in words, the dogs, and a row a pair."""
    portraits = draw_portraits(table)
    dogs = [
        show_dog(image, label, "")
        for label, image in zip(table.labels, portraits.images, strict=True)
        if image is not None
    ]
    rows = [
        [
            a,
            b,
            pair.evidence.verdict or "no verdict",
            figure(pair.similarity.ics),
            figure(pair.similarity.latent_cosine),
        ]
        for (a, b), pair in zip(combinations(table.labels, 2), table.pairs, strict=True)
    ]
    more = len(rows) - MOST_ROWS
    parts = [
        Markup("<p>{}</p>").format(tell_table(table)),
        Markup("<div>{}</div>").format(Markup("").join(dogs[:MOST_DOGS])),
        show_rows(["a", "b", "verdict", "ICS", "cos z"], rows[:MOST_ROWS]),
        Markup("<p>and {:,} more pairs; see to_pandas()</p>").format(more) if more > 0 else "",
        *(Markup("<p>Not read: {}</p>").format(printable(one.error)) for one in table.failed),
    ]
    return str(Markup("").join(map(escape, parts)))


def draw_comparison(table: LineageTable) -> bytes:
    """The dogs and the heat map of a comparison as a PNG."""
    return as_png(np.asarray(draw_table(table)))
