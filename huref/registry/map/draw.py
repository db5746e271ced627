"""A registry as a map: positions of its models on a plane, and their dogs."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from huref.decoder.picture import Picture
from huref.decoder.render import load_decoder
from huref.escape import printable
from huref.progress import track
from huref.recipe import Recipe, imported_with, load_recipe
from huref.registry.map.kinship import Kinship, find_kin
from huref.registry.map.layout import lay_out
from huref.registry.store import Store

MOST_DOGS = 1000  # further models are dots: each dog takes 2 kB and some 30 ms
CELL = 48.0  # width of a dog in units of the drawing
MARGIN = 1.2  # around the map, in widths of a dog
ALL_NAMED = 40  # models up to which each has its name on the map
CAPTIONED = 3  # members from which on a family has its name on a larger map


@dataclass(frozen=True)
class Island:
    """The caption of a family: the middle of its lower edge, its root's name, its size."""

    x: float
    y: float
    name: str
    models: int


@dataclass(frozen=True)
class RegistryMap:
    """A registry laid out on a plane.

    Attributes:
        kinship: which models are related.
        recipe: of the registry.
        points: (n, 2), in units of the drawing from its upper left corner.
        images: the dogs, (h, w, 3) uint8; None for models drawn as dots.
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
        """Captions of the larger families; empty if every model has its name on the map."""
        if len(self.points) <= ALL_NAMED:
            return []
        found = []
        for family in self.kinship.families:
            if len(family) >= CAPTIONED:
                members = self.points[list(family)]
                x = float(members[:, 0].min() + members[:, 0].max()) / 2
                y = float(members[:, 1].max())
                found.append(Island(x, y, self.name(family[0]), len(family)))
        return found

    def name(self, model: int) -> str:
        """The last part of a model's name."""
        return printable(Path(self.kinship.labels[model].model).name)


def draw_map(store: Store, decoder: str | None = None) -> RegistryMap:
    """Lay a registry out and draw its dogs.

    Args:
        store: the registry.
        decoder: name or file of a decoder. The default is the decoder of the registry's recipe if
            it is installed, else that of the default recipe.

    Raises:
        RegistryError: the registry is empty or damaged.
    """
    kinship = find_kin(store)
    points = lay_out(kinship.ics, kinship.families) * CELL
    points += MARGIN * CELL - points.min(axis=0)
    images: list[Picture | None] = [None] * len(points)
    loaded = load_decoder(_decoder_path(store.recipe, decoder))
    first = [model for family in kinship.families for model in family[:1]]
    rest = [model for family in kinship.families for model in family[1:]]
    chosen = (first + rest)[:MOST_DOGS]
    for model in track(chosen, "dogs"):
        images[model] = loaded.render(torch.from_numpy(kinship.latents[model])[None])[0]
    return RegistryMap(kinship, store.recipe, points, tuple(images))


def _decoder_path(recipe: Recipe, decoder: str | None) -> Path:
    current, _, path = load_recipe(decoder=decoder)
    if decoder is None and current.decoder != recipe.decoder:
        return imported_with(recipe.decoder) or path
    return path
