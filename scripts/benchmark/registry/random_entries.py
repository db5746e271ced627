"""Random entries of a registry, seeded by number, and queries that resemble some of them."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from huref.recipe import load_recipe
from huref.registry.entry import Entry, Query
from huref.registry.sketch import KEPT, Codes

QUERIES = 3
FLIPPED = 0.35  # share of a query's bits that differ from its entry: an ICS of 0.45
M = 512
# A fixed recipe, so that intermediate results stay valid with a new encoder or decoder.
RECIPE = replace(load_recipe()[0], name="benchmark", encoder="-", decoder="-")
ANCHORS = np.arange(1, M + 1, dtype=np.uint32)
Vectors = NDArray[np.float32]


def make_entry(number: int) -> Entry:
    """A random entry. All have the same vocabulary, so that a search reads each of them."""
    g = np.random.default_rng(number)
    return Entry(
        model=str(number),
        revision=None,
        recipe=RECIPE.digest,
        base=None,
        measured_at="2026-11-22",
        measured_by="benchmark",
        latent=g.standard_normal(512, np.float32),
        sketch=np.frombuffer(g.bytes(6 * KEPT // 8), np.uint8).reshape(6, -1),
        anchors=ANCHORS,
    )


def make_queries(what: str, count: int) -> list[Query]:
    """Some of the entries with noise; for "terms", with terms that resemble no entry."""
    queries = []
    for number in np.linspace(0, count - 1, QUERIES).astype(int).tolist():
        entry, g = make_entry(number), np.random.default_rng(10**9 + number)
        flipped = np.packbits(g.random((6, KEPT)) < FLIPPED, axis=-1)
        latent = entry.latent * 0.3 + g.standard_normal(512, np.float32)
        terms = None
        if what == "terms":
            terms = torch.from_numpy(g.standard_normal((2, 3, M, M), np.float32))
        queries.append(Query(latent, entry.sketch ^ flipped, entry.anchors, terms))
    return queries


def normalised(latents: Vectors) -> Vectors:
    """Latents (n, 512) as unit vectors."""
    unit: Vectors = latents / np.linalg.norm(latents, axis=1, keepdims=True)
    return unit


def signs(sketches: Codes) -> Vectors:
    """Sketches (n, 6, 1024), or flattened, as +1 and -1, (n, 49152)."""
    return np.unpackbits(sketches.reshape(len(sketches), -1), axis=1).astype(np.float32) * 2 - 1


def entries(count: int) -> Iterator[Entry]:
    """The first `count` entries."""
    return map(make_entry, range(count))


def packed(count: int) -> Codes:
    """The sketches of the first entries, (count, 6144) uint8."""
    codes = np.empty((count, 6 * KEPT // 8), np.uint8)
    for number, entry in enumerate(entries(count)):
        codes[number] = entry.sketch.reshape(-1)
    return codes


def latents_of(count: int) -> Vectors:
    """The latents of the first entries as unit vectors, (count, 512)."""
    return normalised(np.stack([entry.latent for entry in entries(count)]))


def flat(query: Query) -> Codes:
    """A query's sketch, (1, 6144)."""
    assert query.sketch is not None
    return query.sketch.reshape(1, -1)
