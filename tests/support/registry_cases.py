"""Small random entries for the registry's tests."""

from dataclasses import replace

import numpy as np

from huref.recipe import Recipe, load_recipe
from huref.registry.entry import Entry
from huref.registry.sketch import kept_of

M = 128  # anchors: enough for a comparison, few enough to be fast


def small_recipe(**changes: object) -> Recipe:
    return replace(load_recipe()[0], **({"name": "small", "m": M} | changes))  # type: ignore[arg-type]


RECIPE = small_recipe()
VOCABULARIES = np.random.default_rng(7).integers(1, 2**32, (3, M), dtype=np.uint32)


def random_entry(
    seed: int, base: str | None = None, vocabulary: int = 0, **changes: object
) -> Entry:
    """A random entry, determined by the seed."""
    g = np.random.default_rng(seed)
    entry = Entry(
        model=f"org/model-{seed}",
        revision=f"{seed:040x}",
        recipe=RECIPE.digest,
        base=base,
        measured_at="2026-11-21",
        measured_by="tests",
        latent=g.standard_normal(512).astype(np.float32),
        sketch=g.integers(0, 256, (6, kept_of(M) // 8), dtype=np.uint8),
        anchors=VOCABULARIES[vocabulary],
    )
    return replace(entry, **changes)  # type: ignore[arg-type]


def are_equal(a: Entry, b: Entry) -> bool:
    """Whether two entries are equal bit for bit."""
    arrays = ("latent", "sketch", "anchors")
    words = ("model", "revision", "recipe", "base", "measured_at", "measured_by")
    return all(np.array_equal(getattr(a, x), getattr(b, x)) for x in arrays) and all(
        getattr(a, x) == getattr(b, x) for x in words
    )
