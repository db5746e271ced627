"""A registry as a map: where its models stand on a plane, and their dogs."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from huref.decoder.picture import Picture
from huref.decoder.render import load_decoder
from huref.recipe import Recipe, imported_with, load_recipe
from huref.registry.map.kinship import Kinship, find_kin
from huref.registry.map.layout import lay_out
from huref.registry.store import Store
from huref.report.lettering import printable

MOST_DOGS = 1000  # others are dots: each dog takes 2 kB and some 30 ms
CELL = 48.0  # units of the drawing to a dog's width
MARGIN = 1.2  # dogs around the map
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
