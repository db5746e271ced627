"""A registry as a map: dogs on a plane and the families' trees, as a page or as a picture."""

import base64
import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from huref import __version__
from huref.decoder.picture import Picture, write_png
from huref.decoder.render import load_decoder
from huref.errors import RegistryError
from huref.files import replacing, require_folder
from huref.lineage.tree import JOINED_FROM
from huref.recipe import Recipe, imported_with, load_recipe
from huref.registry.kinship import Kinship, find_kin
from huref.registry.layout import lay_out
from huref.registry.store import Store
from huref.report.canvas import Canvas, Disc, Dog, Line, Words
from huref.report.lettering import printable, shorten
from huref.report.palette import stylesheet
from huref.report.portraits import Portraits
from huref.report.raster import rasterise

PAGES = (".html", ".htm")
MOST_DOGS = 1000  # others are dots: each dog takes 2 kB and some 30 ms
SIDE = 72  # pixels of a dog on the page
QUALITY = 80  # of its WebP
CELL = 48.0  # units of the drawing to a dog's width
MARGIN = 1.2  # dogs around the map
KIN_SHOWN = 8
ALL_NAMED = 40  # models up to which each has its name on the map from the beginning
CAPTIONED = 3  # members from which a family has its name on a larger map


@dataclass(frozen=True)
class Island:
    """A family's caption: the middle and the lower end of where it stands, its root, its size."""

    x: float
    y: float
    name: str
    models: int


@dataclass(frozen=True)
class RegistryMap:
    """A registry laid out.

    Attributes:
        kinship: who is kin.
        recipe: of the registry.
        points: (n, 2), in the drawing's units from its upper left corner.
        images: the dogs, (h, w, 3) uint8; None for models shown as dots.
    """

    kinship: Kinship
    recipe: Recipe
    points: NDArray[np.float64]
    images: tuple[Picture | None, ...]

    @cached_property
    def size(self) -> tuple[float, float]:
        """Width and height of the drawing."""
        width, height = self.points.max(axis=0) + MARGIN * CELL
        return float(width), float(height)

    @cached_property
    def islands(self) -> list[Island]:
        """Names of the larger families, where not every model has its own on the map."""
        if len(self.points) <= ALL_NAMED:
            return []
        found = []
        for family in self.kinship.families:
            if len(family) >= CAPTIONED:
                shore = self.points[list(family)]
                x = float(shore[:, 0].min() + shore[:, 0].max()) / 2
                y = float(shore[:, 1].max())
                found.append(Island(x, y, self.name(family[0]), len(family)))
        return found

    def name(self, model: int) -> str:
        """The model's own part of its name."""
        return printable(Path(self.kinship.labels[model].model).name)


def draw_map(store: Store, decoder: str | None = None) -> RegistryMap:
    """Lay a registry out and draw its dogs.

    Args:
        store: what to show.
        decoder: another decoder than the recipe's, which draws other dogs. A registry that was
            begun with a decoder that is not here is drawn with the one that is.

    Raises:
        RegistryError: it is empty or damaged.
    """
    kinship = find_kin(store)
    points = lay_out(kinship.ics, kinship.families) * CELL
    points += MARGIN * CELL - points.min(axis=0)
    images: list[Picture | None] = [None] * len(points)
    artist = load_decoder(_decoder_of(store.recipe, decoder))
    first = [model for family in kinship.families for model in family[:1]]
    rest = [model for family in kinship.families for model in family[1:]]
    chosen = (first + rest)[:MOST_DOGS]
    for model in tqdm(chosen, desc="dogs", delay=2, disable=None):
        images[model] = artist.render(torch.from_numpy(kinship.latents[model])[None])[0]
    return RegistryMap(kinship, store.recipe, points, tuple(images))


def _decoder_of(recipe: Recipe, decoder: str | None) -> Path:
    current, _, path = load_recipe(decoder=decoder)
    if decoder is None and current.decoder != recipe.decoder:
        return imported_with(recipe.decoder) or path
    return path


def require_writable(path: Path) -> None:
    """Refuse, before anything is drawn, what `save_map` could not write.

    Raises:
        RegistryError: neither a page nor a picture.
        HurefError: there is no such folder.
    """
    if path.suffix.lower() not in (*PAGES, ".png"):
        raise RegistryError(f"{path}: a map is an .html page or a .png picture")
    require_folder(path)


def save_map(drawn: RegistryMap, path: Path) -> None:
    """Write a map as .html or .png; the file appears whole or not at all.

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
    canvas = Canvas(width, height, f"{len(drawn.points)} models of a registry")
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


def render_page(drawn: RegistryMap) -> str:
    """The map as a page that needs nothing else. Names in it are escaped; it sends no requests."""
    loader = PackageLoader("huref.registry", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    script = loader.get_source(environment, "map.js")[0]
    kinship = drawn.kinship
    return environment.get_template("map.html").render(
        version=__version__,
        recipe=drawn.recipe,
        total=kinship.total,
        models=[_describe(drawn, model) for model in range(len(drawn.points))],
        links=[(link, drawn.points[link.parent], drawn.points[link.child])
               for link in kinship.links],
        families=[_tree(kinship, family) for family in kinship.families if len(family) > 1],
        loners=[family[0] for family in kinship.families if len(family) == 1],
        contradicted=kinship.contradicted,
        islands=drawn.islands,
        joined_from=JOINED_FROM,
        cell=CELL,
        size=drawn.size,
        dogs=[_uri(image) for image in drawn.images],
        # Both are files of this package; nothing of a model's is in them.
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        style=Markup(stylesheet()),
    )  # fmt: skip


def _describe(drawn: RegistryMap, model: int) -> dict[str, Any]:
    kinship = drawn.kinship
    label = kinship.labels[model]
    x, y = drawn.points[model].tolist()
    base = kinship.bases[model]
    return {
        "model": printable(label.model),
        "name": drawn.name(model),
        "revision": (label.revision or "")[:12],
        "base": printable(label.base or ""),
        "base_at": base,
        "base_ics": None if base is None else round(float(kinship.ics[model, base]), 3),
        "date": label.measured_at,
        "by": printable(label.measured_by),
        "x": round(x, 1),
        "y": round(y, 1),
        "kin": [
            (other, round(float(kinship.ics[model, other]), 3))
            for other in kinship.nearest(model, KIN_SHOWN)
        ],
    }


def _tree(kinship: Kinship, family: tuple[int, ...]) -> list[tuple[int, int, float | None]]:
    """A family as (model, depth, ICS with the model above), each followed by those below it."""
    members = set(family)
    below: dict[int, list[tuple[int, float]]] = {model: [] for model in family}
    for link in kinship.links:
        if link.parent in members:
            below[link.parent].append((link.child, link.ics))
    rows: list[tuple[int, int, float | None]] = []
    left: list[tuple[int, int, float | None]] = [(family[0], 0, None)]
    while left:
        model, depth, ics = left.pop()
        rows.append((model, depth, ics))
        # The most alike is taken from the stack, and so shown, first.
        left += [(child, depth + 1, own) for child, own in sorted(below[model], key=_by_ics)]
    return rows


def _by_ics(pair: tuple[int, float]) -> float:
    return pair[1]


def _uri(image: Picture | None) -> str | None:
    if image is None:
        return None
    buffer = io.BytesIO()
    dog = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    dog.save(buffer, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
