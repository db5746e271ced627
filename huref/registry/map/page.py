"""A registry's map as a self-contained page with a search."""

import base64
import io
from typing import Any

from PIL import Image

from huref.decoder.picture import Picture
from huref.escape import printable
from huref.lineage.tree import JOINED_FROM
from huref.registry.map.draw import CELL, RegistryMap
from huref.registry.map.kinship import Kinship
from huref.report.html import render_html

SIDE = 72  # of a dog on the page, pixels
QUALITY = 80  # of its WebP
KIN_SHOWN = 8  # related models listed for a model


def render_page(drawn: RegistryMap) -> str:
    """The map as HTML. Names are escaped, and its content security policy forbids requests."""
    kinship = drawn.kinship
    return render_html(
        "map",
        "huref.registry.map",
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
    """A family's tree in depth-first order as (model, depth, ICS with its parent)."""
    members = set(family)
    children: dict[int, list[tuple[int, float]]] = {model: [] for model in family}
    for link in kinship.links:
        if link.parent in members:
            children[link.parent].append((link.child, link.ics))
    rows: list[tuple[int, int, float | None]] = []
    stack: list[tuple[int, int, float | None]] = [(family[0], 0, None)]
    while stack:
        model, depth, ics = stack.pop()
        rows.append((model, depth, ics))
        # The most similar child is on top of the stack, and so is shown first.
        stack += [(child, depth + 1, own) for child, own in sorted(children[model], key=_by_ics)]
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
