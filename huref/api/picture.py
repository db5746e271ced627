"""Draws the picture of a latent, and holds a picture against what its latent draws."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from huref.decoder.picture import enlarge
from huref.decoder.render import Decoder, load_decoder
from huref.errors import EditedError, HurefError
from huref.recipe import Recipe, imported_with, load_recipe

SHOWN = 256  # smallest side in pixels of a picture; smaller ones are enlarged
GREY_LEVELS = 1  # difference of a pixel between machines, docs/evidence.md


@lru_cache(maxsize=2)
def cached_decoder(path: Path) -> Decoder:
    """The decoder of a checkpoint, loaded once."""
    return load_decoder(path)


def draw_latent(latent: NDArray[np.float32], decoder: Path) -> NDArray[np.uint8]:
    """The picture of a latent (512,), (height, width, 3) uint8, without caption."""
    return enlarge(cached_decoder(decoder).render(torch.from_numpy(latent)[None])[0], SHOWN)


def find_decoder(recipe: Recipe, name: str = "default", decoder: str | None = None) -> Path | None:
    """The file of the decoder that a recipe names, or None where it is not installed.

    Args:
        recipe: with the decoder's digest.
        name: name or file of a recipe whose decoder is tried first.
        decoder: name or file of a decoder to try instead of that one.
    """
    for candidate in dict.fromkeys([(name, decoder), ("default", None)]):
        try:
            loaded, _, path = load_recipe(*candidate)
        except HurefError:
            continue
        if loaded.decoder == recipe.decoder:
            return path
    return imported_with(recipe.decoder)


def check_pixels(
    image: NDArray[np.uint8],
    latent: NDArray[np.float32],
    recipe: Recipe,
    name: str = "default",
    decoder: str | None = None,
) -> bool:
    """Whether a picture could be held against its latent; False without its decoder.

    A caption below the dog is not looked at.

    Raises:
        EditedError: the dog is not what the recipe draws from the latent.
    """
    path = find_decoder(recipe, name, decoder)
    if path is None:
        return False
    expected = draw_latent(latent, path)
    dog = image[: image.shape[1]]
    fits = dog.shape == expected.shape
    if fits and np.abs(dog.astype(np.int16) - expected.astype(np.int16)).max() <= GREY_LEVELS:
        return True
    raise EditedError("the picture was edited: it is not what its recipe draws from its latent")
