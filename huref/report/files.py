"""Comparisons and forests as files; the suffix of the path chooses the format."""

from pathlib import Path

from huref.decoder.picture import write_png
from huref.errors import HurefError
from huref.escape import to_json
from huref.files import replacing
from huref.lineage.newick import as_newick
from huref.lineage.table import LineageTable
from huref.lineage.tree import Forest
from huref.report.portraits import draw_portraits
from huref.report.raster import rasterise
from huref.report.sheet import draw_table
from huref.report.svg import as_svg
from huref.report.tree_drawing import draw_forest
from huref.version import SCHEMA, __version__

SOFTWARE = {"Software": f"huref {__version__}"}


def write_comparison(table: LineageTable, path: Path, *, recipe: str = "default") -> None:
    """Write a table as a report (.html) or as one picture (.png), atomically.

    Raises:
        HurefError: the path has another suffix.
    """
    kind = path.suffix.lower()
    if kind == ".html":
        from huref.report.page import write_report

        write_report(table, path, recipe=recipe)
    elif kind == ".png":
        write_png(path, draw_table(table, recipe=recipe), SOFTWARE)
    else:
        raise HurefError("a comparison is written as .html or .png", file=path)


def write_forest(forest: Forest, path: Path, *, recipe: str = "default") -> None:
    """Write a forest as .png, .svg, .nwk (Newick) or .json, atomically.

    Raises:
        HurefError: the path has another suffix.
    """
    kind = path.suffix.lower()
    if kind == ".nwk":
        text = as_newick(forest)
    elif kind == ".json":
        document = {"huref": __version__, "schema": SCHEMA, **forest.to_json()}
        text = to_json(document, indent=2) + "\n"
    elif kind in (".png", ".svg"):
        portraits = draw_portraits(forest.table, recipe)
        canvas = draw_forest(forest)
        if kind == ".png":
            write_png(path, rasterise(canvas, portraits), SOFTWARE)
            return
        text = as_svg(canvas, portraits)
    else:
        raise HurefError("a lineage tree is written as .png, .svg, .nwk or .json", file=path)
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")
