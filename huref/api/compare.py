"""`huref.compare`: the table of all pairs of some models, records and pictures."""

from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from huref.api.open import open_record
from huref.errors import locating
from huref.invariants.extract import Depth
from huref.invariants.record import Record
from huref.lineage.table import LineageTable, build_table


def compare(
    models: Sequence[str | Path],
    *,
    recipe: str = "default",
    depth: Depth = "recipe",
    cache: bool = True,
) -> LineageTable:
    """Measure each model once and compare every pair.

    Args:
        models: two or more folders, Hub ids, records or fingerprint PNGs, in any mix. From a PNG
            only the latent can be compared.
        recipe: name or YAML file of a recipe, for the models whose weights are read.
        depth: "full" reads the feed-forward networks of every block, for layer maps.
        cache: whether stored records are used, and new ones stored.

    Raises:
        RecipeError: two records were made by different recipes.
        HurefError: a model could not be read; the message names it.
    """
    names = tqdm([str(model) for model in models], desc="models", delay=2, disable=None)
    return build_table([_open(name, recipe, depth, cache) for name in names])


def _open(name: str, recipe: str, depth: Depth, cache: bool) -> Record:
    """A model's record. An error that names a file alone is made to name the model, too."""
    with locating(model=name):
        return open_record(name, recipe, depth=depth, cache=cache)
