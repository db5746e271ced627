"""A registry: measured models under one URI, all of one recipe.

Typical use:

    store = create_store("bases", load_recipe()[0])  # a folder; or "bases.lance"
    store.add([make_entry(open_record("org/model"))])
    for match in store.search(make_query(open_record("org/suspect"))):
        print(match.entry.model, match.ics)
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from huref.assets import home
from huref.errors import RecipeError, RegistryError
from huref.lineage.similarity import latent_cosine
from huref.recipe import LATENT_SIZE, Recipe
from huref.registry.entry import Entry, Query
from huref.registry.matrices import Matrices
from huref.registry.ranking import Ranking
from huref.registry.sketch import count_shared, kept_of


@dataclass(frozen=True)
class Labels:
    """What a registry says of a model in words; see `Entry`."""

    model: str
    revision: str | None
    base: str | None
    measured_at: str
    measured_by: str


@dataclass(frozen=True)
class Chunk(Matrices):
    """Some entries of a registry.

    Attributes:
        labels: what is said of each, n of them.
    """

    labels: Sequence[Labels]

    def entry(self, row: int, recipe: str) -> Entry:
        """One row as an entry."""
        of = self.labels[row]
        return Entry(
            of.model,
            of.revision,
            recipe,
            of.base,
            of.measured_at,
            of.measured_by,
            np.array(self.latents[row]),
            np.array(self.sketches[row]),
            np.array(self.vocabularies[self.vocabulary[row]]),
        )


@dataclass(frozen=True)
class Match:
    """An entry that was found, and how alike it is to what was looked for.

    Attributes:
        entry: the entry; its sketch is left out where the query had none.
        ics: estimate of the ICS by the sketches, or None when the query had no sketch.
        terms: the estimate for each term, (layers * 3,), or None.
        deviation: standard deviation of `ics` where nothing is shared; 0 without one.
        shared_anchors: anchors that both hold, or None when the query had none.
        latent_cosine: cosine of the latents.
    """

    entry: Entry
    ics: float | None
    terms: NDArray[np.float64] | None
    deviation: float
    shared_anchors: int | None
    latent_cosine: float


class Store(ABC):
    """A registry. Writers wait for each other; what was added is there after a crash."""

    uri: str
    recipe: Recipe

    @abstractmethod
    def has(self, model: str, revision: str | None, recipe: str) -> bool:
        """Whether a model was measured at that commit by that recipe (its digest)."""

    @abstractmethod
    def add(self, entries: Iterable[Entry]) -> int:
        """Add all entries that are not there yet, all at once, and return how many were added.

        Of entries with one (model, revision, recipe) the first stays.

        Raises:
            RecipeError: an entry was made by another recipe; nothing is added.
            RegistryError: the disk is full, or the registry is damaged; nothing is added.
        """

    @abstractmethod
    def remove(self, model: str, revision: str | None = None) -> int:
        """Remove a model (at all commits when `revision` is None) and return how many went."""

    @abstractmethod
    def chunks(self, *, sketches: bool = True) -> Iterator[Chunk]:
        """All entries in no particular order, some hundreds at a time.

        Without `sketches` these are left empty, (n, 0, 0), and not read.
        """

    @abstractmethod
    def __len__(self) -> int:
        """How many entries there are."""

    @abstractmethod
    def count_bases(self) -> int:
        """How many entries declare no base."""

    def labels(self) -> Iterator[Labels]:
        """What is said of every entry, in no particular order."""
        for chunk in self.chunks(sketches=False):
            yield from chunk.labels

    def entries(self) -> Iterator[Entry]:
        """All entries, in no particular order."""
        for chunk in self.chunks():
            for row in range(len(chunk.labels)):
                yield chunk.entry(row, self.recipe.digest)

    def search(self, query: Query, limit: int = 10, *, bases_only: bool = False) -> list[Match]:
        """The entries most like a model, best first; every entry is looked at.

        They are ranked by the lower end of the sketches' ICS, or by the latents' cosine where
        the query has no sketch. Entries sharing too few anchors are left out.

        Args:
            query: see `make_query`.
            limit: how many at most.
            bases_only: leave out the entries that declare a base.
        """
        best: list[tuple[float, Match]] = []
        rank = Ranking(query)
        for chunk in self.chunks(sketches=query.sketch is not None):
            wanted = [not bases_only or label.base is None for label in chunk.labels]
            rows = np.flatnonzero(wanted)
            scores, terms, deviations = rank(chunk)
            rows = rows[np.isfinite(scores[rows])]
            for row in rows[np.argsort(-scores[rows], kind="stable")[:limit]]:
                entry = chunk.entry(int(row), self.recipe.digest)
                of_terms = None if terms is None else terms[row]
                match = Match(
                    entry,
                    None if of_terms is None else float(of_terms.mean()),
                    of_terms,
                    float(deviations[row]),
                    None if query.anchors is None else count_shared(query.anchors, entry.anchors),
                    latent_cosine(query.latent, entry.latent),
                )
                best.append((float(scores[row]), match))
            best = sorted(best, key=lambda pair: -pair[0])[:limit]
        return [match for _, match in best]


def default_uri() -> str:
    """Where `huref identify` looks when it is not told: $HUREF_HOME/registry, ~/.huref/registry."""
    return str(home() / "registry")


def refuse_unfit(entries: Sequence[Entry], recipe: Recipe, uri: str) -> None:
    """Raise when an entry cannot be one of a registry.

    Raises:
        RecipeError: it was made by another recipe.
        RegistryError: its numbers have another size than the recipe's, or are not finite.
    """
    terms, m = len(recipe.layers) * 3, recipe.m
    expected = (LATENT_SIZE,), (terms, kept_of(m) // 8), (m,)
    for entry in entries:
        if entry.recipe != recipe.digest:
            raise RecipeError(
                f"{entry.model}: made by the recipe {entry.recipe}, but {uri} holds "
                f"{recipe.digest} ('{recipe.name}'); measure it by that one or use another registry"
            )
        sizes = entry.latent.shape, entry.sketch.shape, entry.anchors.shape
        if sizes != expected:
            raise RegistryError(f"{entry.model}: its latent, sketch or anchors have another size")
        if not np.isfinite(entry.latent).all():
            raise RegistryError(f"{entry.model}: its latent is not finite; measure it again")
