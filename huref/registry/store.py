"""A registry: entries of measured models under one URI, all of one recipe.

Typical use:

    store = create_store("bases", load_recipe()[0])  # a folder; or "bases.lance"
    store.add([make_entry(open_record("org/model"))])
    for result in store.search(make_query(open_record("org/suspect"))):
        print(result.entry.model, result.ics)
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from huref.assets import home
from huref.errors import RecipeError, RegistryError
from huref.lineage.similarity import latent_cosine
from huref.recipe import LATENT_SIZE, Recipe
from huref.registry.anchor_codes import count_shared
from huref.registry.entry import Entry, Query
from huref.registry.matrices import Matrices
from huref.registry.ranking import Ranking
from huref.registry.signing import check_entry
from huref.registry.sketch import VERSION, kept_of


@dataclass(frozen=True)
class Label:
    """The text fields of an entry but the recipe, which is the registry's; see `Entry`."""

    model: str
    revision: str | None
    base: str | None
    measured_at: str
    measured_by: str
    signer: str = ""
    signature: str = ""


LONGEST_LABEL = 4096  # characters


def parse_label(
    model: object,
    revision: object,
    base: object,
    at: object,
    by: object,
    signer: object = "",
    signature: object = "",
) -> Label:
    """A label from a stored entry. Raises ValueError for anything but texts of usual length."""
    texts = [model, revision or "", base or "", at, by, signer or "", signature or ""]
    if not all(isinstance(text, str) and len(text) <= LONGEST_LABEL for text in texts):
        raise ValueError("an entry's model, revision, base, date or author is no text")
    for text in texts:
        str(text).encode()  # lone surrogates raise a ValueError
    return Label(str(model), str(revision or "") or None, None if base is None else str(base),
                 str(at), str(by), str(signer or ""), str(signature or ""))  # fmt: skip


@dataclass(frozen=True)
class Chunk(Matrices):
    """Some entries of a registry.

    Attributes:
        labels: n, one for each row of the matrices.
    """

    labels: Sequence[Label]

    def entry(self, row: int, recipe: str) -> Entry:
        """The entry of one row; `recipe` is the registry's digest."""
        label = self.labels[row]
        return Entry(
            label.model,
            label.revision,
            recipe,
            label.base,
            label.measured_at,
            label.measured_by,
            np.array(self.latents[row]),
            np.array(self.sketches[row]),
            np.array(self.vocabularies[self.vocabulary[row]]),
            label.signer,
            label.signature,
        )


@dataclass(frozen=True)
class SearchResult:
    """An entry and its similarity to the query.

    Attributes:
        entry: without its sketch if the query has none.
        ics: the ICS estimated from sketches, or None if the query has no sketch.
        terms: the estimate for each term, (layers * 3,), or None.
        deviation: standard deviation of `ics` for unrelated models; 0 without an estimate.
        shared_anchors: the number of anchors that both have, or None if the query has none.
        latent_cosine: cosine of the latents.
    """

    entry: Entry
    ics: float | None
    terms: NDArray[np.float64] | None
    deviation: float
    shared_anchors: int | None
    latent_cosine: float


class Store(ABC):
    """A registry. Writers wait for each other; added entries survive a crash."""

    uri: str
    recipe: Recipe
    require: str = ""  # "signed": unsigned entries are refused

    @abstractmethod
    def has(self, model: str, revision: str | None, recipe: str) -> bool:
        """Whether it has an entry for a model at a commit by a recipe (its digest)."""

    @abstractmethod
    def add(self, entries: Iterable[Entry]) -> int:
        """Add the new entries in one transaction and return their number.

        Of several entries with the same (model, revision, recipe) the first is kept.

        Raises:
            RecipeError: an entry has another recipe; nothing is added.
            RegistryError: the disk is full, or the registry is damaged; nothing is added.
        """

    @abstractmethod
    def remove(self, model: str, revision: str | None = None) -> int:
        """Remove a model (at all commits if `revision` is None); return how many entries."""

    @abstractmethod
    def chunks(self, *, sketches: bool = True) -> Iterator[Chunk]:
        """All entries in no particular order, some hundreds per chunk.

        With `sketches` False the sketches are not read and have the shape (n, 0, 0).
        """

    @abstractmethod
    def __len__(self) -> int:
        """The number of entries."""

    @abstractmethod
    def count_bases(self) -> int:
        """The number of entries that declare no base."""

    def labels(self) -> Iterator[Label]:
        """The labels of all entries, in no particular order."""
        for chunk in self.chunks(sketches=False):
            yield from chunk.labels

    def entries(self) -> Iterator[Entry]:
        """All entries, in no particular order."""
        for chunk in self.chunks():
            for row in range(len(chunk.labels)):
                yield chunk.entry(row, self.recipe.digest)

    def whole(self, entry: Entry) -> Entry:
        """An entry with its sketch, which a search without sketches leaves out."""
        if entry.sketch.size:
            return entry
        return next((one for one in self.entries() if one.key == entry.key), entry)

    def free_name(self, entry: Entry, pending: Sequence[Entry] = ()) -> Entry:
        """A local model under a name that no other local model has.

        Two folders may have one name; the second gets digits of its latent's SHA-256. `pending`
        are entries that will be added before it.
        """
        if entry.revision:
            return entry
        namesakes = [one.latent for one in pending if one.key == entry.key]
        for chunk in self.chunks(sketches=False):
            for row, label in enumerate(chunk.labels):
                if label.model == entry.model and label.revision is None:
                    namesakes.append(chunk.latents[row])
        if all(np.array_equal(latent, entry.latent) for latent in namesakes):
            return entry
        digest = sha256(entry.latent.astype("<f4").tobytes()).hexdigest()
        return replace(entry, model=f"{entry.model}-{digest[:8]}")

    def search(
        self, query: Query, limit: int = 10, *, bases_only: bool = False
    ) -> list[SearchResult]:
        """The most similar entries, best first, of a full scan.

        They are ranked by the lower bound of the ICS estimated from sketches, or by the cosine of
        the latents if the query has no sketch. Entries with too few shared anchors are left out.

        Args:
            query: see `make_query`.
            limit: the largest number of results.
            bases_only: leave out the entries that declare a base.
        """
        best: list[tuple[float, SearchResult]] = []
        rank = Ranking(query)
        for chunk in self.chunks(sketches=query.sketch is not None):
            wanted = [not bases_only or label.base is None for label in chunk.labels]
            rows = np.flatnonzero(wanted)
            scores, terms, deviations = rank(chunk)
            rows = rows[np.isfinite(scores[rows])]
            for row in rows[np.argsort(-scores[rows], kind="stable")[:limit]]:
                entry = chunk.entry(int(row), self.recipe.digest)
                of_terms = None if terms is None else terms[row]
                result = SearchResult(
                    entry,
                    None if of_terms is None else float(of_terms.mean()),
                    of_terms,
                    float(deviations[row]),
                    None if query.anchors is None else count_shared(query.anchors, entry.anchors),
                    latent_cosine(query.latent, entry.latent),
                )
                best.append((float(scores[row]), result))
            best = sorted(best, key=lambda pair: -pair[0])[:limit]
        return [result for _, result in best]


def default_uri() -> str:
    """The default registry of `huref identify`: $HUREF_HOME/registry, or ~/.huref/registry."""
    return str(home() / "registry")


def refuse_unfit(entries: Sequence[Entry], recipe: Recipe, uri: str, require: str = "") -> None:
    """Check that entries fit a registry of a recipe and with a policy, see `Store.require`.

    Raises:
        RecipeError: an entry has another recipe.
        RegistryError: it is unsigned or was edited, or its arrays do not have the recipe's shapes
            or are not finite.
    """
    terms, m = len(recipe.layers) * 3, recipe.m
    expected = (LATENT_SIZE,), (terms, kept_of(m) // 8), (m,)
    for entry in entries:
        check_entry(entry, require)
        if entry.recipe != recipe.digest:
            raise RecipeError(
                f"made by the recipe {entry.recipe}, but the registry {uri} has "
                f"{recipe.digest} ('{recipe.name}')",
                model=entry.model,
                advice="measure it with that recipe, or use another registry",
            )
        shapes = entry.latent.shape, entry.sketch.shape, entry.anchors.shape
        if shapes != expected:
            raise RegistryError(
                f"its latent, sketch and anchors have the shapes {shapes}, not {expected}",
                model=entry.model,
            )
        if not np.isfinite(entry.latent).all():
            raise RegistryError(
                "its latent is not finite", model=entry.model, advice="measure it again"
            )


def require_version(found: object, uri: str | PathLike[str]) -> None:
    """Raise RegistryError unless the sketches of a registry or an export have our version."""
    if found != VERSION:
        raise RegistryError(
            f"its sketches have the version '{found}', not '{VERSION}'",
            file=uri,
            advice="make it again with this version of huref, or use the version that made it",
        )
