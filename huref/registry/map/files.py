"""Writes a registry's map as a page or as a picture."""

from pathlib import Path

from huref.decoder.picture import write_png
from huref.errors import RegistryError
from huref.files import replacing, require_folder
from huref.registry.map.draw import CELL, RegistryMap
from huref.registry.map.page import render_page
from huref.report.canvas import Canvas, Disc, Dog, Line, Words
from huref.report.lettering import shorten
from huref.report.portraits import Portraits
from huref.report.raster import rasterise
from huref.version import __version__

PAGES = (".html", ".htm")


def require_writable(path: Path) -> None:
    """Check, before anything is drawn, that `save_map` can write a file.

    Raises:
        RegistryError: its suffix is neither that of a page nor of a picture.
        HurefError: its folder does not exist.
    """
    if path.suffix.lower() not in (*PAGES, ".png"):
        raise RegistryError(
            f"a map cannot be a '{path.suffix}' file",
            file=path,
            advice="give an .html page or a .png picture",
        )
    require_folder(path)


def save_map(drawn: RegistryMap, path: Path) -> None:
    """Write a map as .html or .png, atomically.

    Raises:
        RegistryError: see `require_writable`.
    """
    require_writable(path)
    if path.suffix.lower() == ".png":
        picture = rasterise(draw_canvas(drawn), Portraits(drawn.images))
        write_png(path, picture, {"Software": f"huref {__version__}"})
    else:
        page = render_page(drawn)
        with replacing(path) as temporary:
            temporary.write_text(page, "utf-8")


def draw_canvas(drawn: RegistryMap) -> Canvas:
    """The map as a drawing."""
    width, height = drawn.size
    canvas = Canvas(width, height, f"Models of a registry: {len(drawn.points)}")
    for link in drawn.kinship.links:
        ends = tuple((float(x), float(y)) for x, y in drawn.points[[link.parent, link.child]])
        canvas.add(Line(ends, "branch", 0.6 + 1.6 * link.ics))
    for model, (x, y) in enumerate(drawn.points.tolist()):
        if drawn.images[model] is None:
            canvas.add(Disc(x, y, CELL / 6, "heat"))
        else:
            canvas.add(Dog(x - CELL / 2, y - CELL / 2, CELL, model))
        if not drawn.islands:
            text = shorten(drawn.name(model), 1.4 * CELL, 8)
            canvas.add(Words(x, y + CELL * 0.61, text, 8, "ink", "middle"))
    size = 11 * max(1.0, width / 1400)
    for island in drawn.islands:
        words = f"{shorten(island.name, 14 * size, size)}, {island.models}"
        canvas.add(Words(island.x, island.y + CELL * 0.5 + size, words, size, "ink", "middle"))
    return canvas
