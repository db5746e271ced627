"""The report of a comparison: one self-contained HTML file."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from markupsafe import Markup

from huref.escape import printable
from huref.files import replacing
from huref.lineage.build_forest import LEAST, build_forest, ics_or_cosine
from huref.lineage.calibration import is_calibrated, load_calibration
from huref.lineage.evidence import LayerMap, Mixing
from huref.lineage.moved import RANGES
from huref.lineage.table import LineageTable, Pair
from huref.lineage.tree import JOINED_FROM
from huref.report import wording
from huref.report.heatmap import draw_heatmap
from huref.report.html import render_html
from huref.report.layer_map_drawing import describe_sources, draw_layer_map
from huref.report.palette import VERDICT_PAINTS
from huref.report.portraits import ROUNDING, SIDE, Portraits, draw_portraits
from huref.report.share_curve import draw_shares, has_curve
from huref.report.svg import as_inline_svg
from huref.report.tree_drawing import draw_forest

MAPS_SHOWN = 12  # layer maps that are open at first
MOST_MAPS = 60  # layer maps in all; fifty models have up to 1,225 pairs
MOST_UNRELATED = 2000  # rows of the second table
ORDER = (*VERDICT_PAINTS, None)


@dataclass(frozen=True)
class Row:
    """A pair of the table, with what the template shows of it."""

    a: int
    b: int
    pair: Pair

    @property
    def arrow(self) -> str:
        """An arrow away from the root, with a above b; "" where the direction is unknown."""
        direction = self.pair.evidence.direction
        return "" if direction is None else "↓" if direction.older == "a" else "↑"

    @property
    def arrow_in_words(self) -> str:
        """The meaning of the arrow."""
        return {"↓": "nearer the root than", "↑": "farther from the root than", "": ""}[self.arrow]

    @property
    def paint(self) -> str:
        """The CSS class of the verdict's badge."""
        verdict = self.pair.evidence.verdict
        return VERDICT_PAINTS[verdict] if verdict else "none"


def write_report(
    table: LineageTable, path: Path, *, recipe: str = "default", portraits: Portraits | None = None
) -> None:
    """Write the report of a comparison, atomically.

    Args:
        table: the measured pairs.
        path: the HTML file.
        recipe: the recipe whose decoder draws the dogs.
        portraits: the dogs, where they have been drawn already.
    """
    html = render_report(table, portraits or draw_portraits(table, recipe))
    with replacing(path) as temporary:
        temporary.write_text(html, "utf-8")


def render_report(table: LineageTable, portraits: Portraits) -> str:
    """The report as HTML. All names are escaped; the content security policy forbids requests."""
    forest = build_forest(table)
    pairs = zip(combinations(range(len(table.records)), 2), table.pairs, strict=True)
    rows = sorted((Row(a, b, pair) for (a, b), pair in pairs), key=_rank)
    notable = [row for row in rows if wording.is_notable(row.pair)]
    unrelated = [row for row in rows if not wording.is_notable(row.pair)]
    labels = [printable(label) for label in table.labels]
    parts = [row for row in rows if row.pair.evidence.components is not None]
    maps = list(_layer_maps(notable, labels, portraits))
    return render_html(
        "report",
        labels=labels,
        records=table.records,
        recipe=table.records[0].recipe,
        recipe_fields=asdict(table.records[0].recipe),
        summary=wording.summary(forest),
        groups=wording.groups(forest),
        tree=Markup(as_inline_svg(draw_forest(forest, heading=False), portraits)),
        heatmap=Markup(as_inline_svg(draw_heatmap(table), portraits)),
        notable=notable,
        unrelated=unrelated[:MOST_UNRELATED],
        unrelated_count=len(unrelated),
        maps=maps[:MAPS_SHOWN],
        more_maps=maps[MAPS_SHOWN:],
        mixings=table.mixings,
        curves=[_curve(table, mixing, portraits) for mixing in table.mixings],
        calibration=load_calibration() if is_calibrated(table) else None,
        joined_from=JOINED_FROM,
        ranges=RANGES,
        components=parts,
        least=LEAST,
        dogs=portraits.uris,
        side=SIDE,
        rounding=ROUNDING,
        wording=wording,
        printable=printable,
    )


def _rank(row: Row) -> tuple[int, float]:
    return ORDER.index(row.pair.evidence.verdict), -ics_or_cosine(row.pair)


def _layer_maps(
    rows: Sequence[Row], labels: list[str], portraits: Portraits
) -> Iterator[dict[str, Any]]:
    """Drawings with captions; maps with moved blocks come first."""
    maps = [(row, row.pair.evidence.layer_map) for row in rows]
    known = [(row, layer_map) for row, layer_map in maps if layer_map is not None]
    known.sort(key=lambda item: _is_identity(item[1]))
    for row, layer_map in known[:MOST_MAPS]:
        canvas = draw_layer_map(layer_map, labels[row.a], labels[row.b])
        yield {
            "drawing": Markup(as_inline_svg(canvas, portraits)),
            "a": labels[row.a],
            "b": labels[row.b],
            "sources": describe_sources(layer_map),
        }


def _curve(table: LineageTable, mixing: Mixing, portraits: Portraits) -> Markup | None:
    """The drawing of a mixture's shares by block, where they are known."""
    if not has_curve(mixing):
        return None
    called = dict(zip(table.models, table.labels, strict=True))
    names = [printable(called.get(parent, parent)) for parent in mixing.parents]
    return Markup(as_inline_svg(draw_shares(mixing, names), portraits))


def _is_identity(layer_map: LayerMap) -> bool:
    """Whether every block comes from the block of the same index."""
    return layer_map.a_layers == layer_map.b_layers and layer_map.source == layer_map.a_layers
