"""The dogs of a table, in the sizes that drawings use."""

import base64
import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw

from huref.api.fingerprint import render
from huref.decoder.picture import Picture
from huref.errors import RecordError
from huref.lineage.table import LineageTable

SIDE = 128  # pixels of an embedded dog
COLOURS = 256  # of a dog's palette: 9 kB a dog instead of 20, without visible banding
ROUNDING = 0.14  # radius of the corners, as a share of the side


@dataclass(frozen=True)
class Portraits:
    """One picture for each model, (h, w, 3) uint8; None where a record has no latent."""

    images: tuple[Picture | None, ...]

    def rounded(self, model: int, side: int) -> Image.Image | None:
        """A dog with rounded corners, RGBA, `side` pixels wide."""
        image = self.images[model]
        if image is None:
            return None
        dog = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
        mask = Image.new("L", (4 * side, 4 * side))
        ImageDraw.Draw(mask).rounded_rectangle(
            (0, 0, 4 * side - 1, 4 * side - 1), 4 * side * ROUNDING, fill=255
        )
        dog.putalpha(mask.resize((side, side), Image.Resampling.LANCZOS))
        return dog

    @cached_property
    def uris(self) -> tuple[str | None, ...]:
        """The dogs as data URIs of small PNGs, with square corners."""
        return tuple(self._uri(model) for model in range(len(self.images)))

    def _uri(self, model: int) -> str | None:
        image = self.images[model]
        if image is None:
            return None
        dog = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        dog.quantize(COLOURS, Image.Quantize.MEDIANCUT).save(buffer, "PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def draw_portraits(table: LineageTable, recipe: str = "default") -> Portraits:
    """Render every model of a table that has a latent."""
    images: list[Picture | None] = []
    for record in table.records:
        try:
            images.append(np.asarray(render(record, recipe=recipe, redraw=True), dtype=np.uint8))
        except RecordError:  # a record of the published terms has no latent
            images.append(None)
    return Portraits(tuple(images))
