"""Similarities of all models of a registry, the families they form, and the links in them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

from huref.errors import RegistryError
from huref.lineage.similarity import MIN_SHARED
from huref.lineage.tree import JOINED_FROM
from huref.registry.anchor_codes import count_shared
from huref.registry.correlation import anchor_ratio, from_agreement, ics_deviation
from huref.registry.matrices import Matrices, from_columns
from huref.registry.store import Label, Store

MOST_MODELS = 5000  # larger registries are sampled, since all pairs are compared
NOISE = 4  # standard deviations of the sketches' error by which an ICS must exceed 0
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Link:
    """An edge of a family's tree.

    Attributes:
        parent: index of the model nearer to the tree's root. It need not be an ancestor.
        child: index of the other model.
        ics: estimated from sketches.
    """

    parent: int
    child: int
    ics: float


@dataclass(frozen=True)
class Kinship:
    """The models of a registry and their relations.

    Attributes:
        labels: n models.
        latents: (n, 512) float32.
        ics: (n, n) estimated from sketches; 0 for pairs with too few shared anchors.
        families: indices of each family's models, its root first; the largest family first.
        links: each family's spanning tree of highest ICS, from the root outwards.
        bases: for each model the index of the base it declares, or None.
        total: number of models in the registry, of which n are shown.
    """

    labels: tuple[Label, ...]
    latents: Matrix
    ics: Matrix
    families: tuple[tuple[int, ...], ...]
    links: tuple[Link, ...]
    bases: tuple[int | None, ...]
    total: int

    def nearest(self, model: int, count: int) -> list[int]:
        """At most `count` models related to one (ICS of JOINED_FROM or more), best first."""
        order = np.argsort(-self.ics[model], kind="stable")[: count + 1]
        return [int(i) for i in order if i != model and self.ics[model, i] >= JOINED_FROM][:count]

    @property
    def contradicted(self) -> list[int]:
        """Models whose ICS with the base they declare is below JOINED_FROM."""
        return [
            model
            for model, base in enumerate(self.bases)
            if base is not None and self.ics[model, base] < JOINED_FROM
        ]


def find_kin(store: Store, most: int = MOST_MODELS) -> Kinship:
    """Compare all models of a registry, or an even sample of them.

    Raises:
        RegistryError: the registry is empty or damaged.
    """
    labels, matrices = _sample(store, most)
    ics = compare_all(matrices)
    bases = _declared(labels)
    families, links = _join(ics, bases)
    return Kinship(tuple(labels), matrices.latents, ics, families, links, tuple(bases), len(store))


def _sample(store: Store, most: int) -> tuple[list[Label], Matrices]:
    step = max(-(-len(store) // most), 1)
    labels, parts, seen = [], [], 0
    for chunk in store.chunks():
        rows = list(range(-seen % step, len(chunk.labels), step))
        seen += len(chunk.labels)
        labels += [chunk.labels[row] for row in rows]
        parts.append(chunk.take(rows).columns())
    if not labels:
        raise RegistryError(
            "the registry is empty", file=store.uri, advice="add models with 'huref registry add'"
        )
    order = sorted(range(len(labels)), key=lambda i: (labels[i].model, labels[i].revision or ""))
    return [labels[i] for i in order], from_columns(parts).take(order)


def compare_all(models: Matrices) -> Matrix:
    """The estimated ICS of all pairs, (n, n) float32.

    It is 0 for pairs with too few shared anchors and for estimates within the noise.
    """
    count, terms = models.sketches.shape[:2]
    groups = [np.flatnonzero(models.vocabulary == v) for v in range(len(models.vocabularies))]
    factors = _factors(models)
    ics = np.zeros((count, count), np.float32)
    for term in range(terms):
        signs = np.unpackbits(models.sketches[:, term], axis=1).astype(np.float32) * 2 - 1
        signs[~models.sketches[:, term].any(axis=1)] = 0  # a constant term
        for i, j in zip(*np.nonzero(factors), strict=True):
            if j <= i:
                rows, others = groups[i], groups[j]
                agreement = signs[rows] @ signs[others].T / signs.shape[1]
                ics[np.ix_(rows, others)] += from_agreement(agreement) / terms
    projections = models.sketches[0].size * 8
    for i, j in np.ndindex(factors.shape):
        if j <= i:
            square = np.ix_(groups[i], groups[j])
            block = np.minimum(ics[square] * factors[i, j], 1)
            block[block < NOISE * factors[i, j] * ics_deviation(projections, measured=False)] = 0
            ics[square] = block
            ics[np.ix_(groups[j], groups[i])] = block.T
    np.fill_diagonal(ics, 1)
    return ics


def _factors(models: Matrices) -> NDArray[np.float64]:
    """`anchor_ratio` of all pairs of vocabularies; 0 for those with too few shared anchors."""
    filled = np.count_nonzero(models.vocabularies, axis=1)
    factors = np.zeros((len(filled), len(filled)))
    for i, a in enumerate(models.vocabularies):
        for j, b in enumerate(models.vocabularies):
            shared = count_shared(a, b)
            if shared >= MIN_SHARED:
                factors[i, j] = anchor_ratio(shared, filled[i], filled[j])
    return factors


def _declared(labels: Sequence[Label]) -> list[int | None]:
    """The index of each model's declared base; Hub ids are case-insensitive."""
    index = {label.model.lower(): i for i, label in enumerate(labels)}
    found = [index.get((label.base or "").partition("@")[0].lower()) for label in labels]
    return [None if base == i else base for i, base in enumerate(found)]


def _join(
    ics: Matrix, bases: Sequence[int | None]
) -> tuple[tuple[tuple[int, ...], ...], tuple[Link, ...]]:
    """Families, and their spanning trees of highest ICS."""
    kin = np.triu(np.where(ics >= JOINED_FROM, ics, 0), 1)
    # SciPy minimises the weight, and 0 means no edge.
    weights = csr_array(np.where(kin > 0, 2 - np.minimum(kin, 1), 0))
    forest = minimum_spanning_tree(weights)
    count, family_of = connected_components(forest, directed=False)
    families, links = [], []
    for family in range(count):
        members = np.flatnonzero(family_of == family)
        root = _root(members, ics, bases)
        order, parent_of = breadth_first_order(forest, root, directed=False)
        families.append(tuple(int(i) for i in order))
        links += [Link(int(parent_of[i]), int(i), float(ics[parent_of[i], i])) for i in order[1:]]
    families.sort(key=lambda members: (-len(members), members[0]))
    return tuple(families), tuple(links)


def _root(members: NDArray[np.int64], ics: Matrix, bases: Sequence[int | None]) -> int:
    """The member that most others declare as their base, else the one most similar to all."""
    declared = {int(i): 0 for i in members}
    for i in members:
        base = bases[i]
        if base in declared:
            declared[base] += 1
    similarity = dict(
        zip(declared, ics[np.ix_(members, members)].sum(axis=1).tolist(), strict=True)
    )
    return max(declared, key=lambda i: (declared[i], bases[i] is None, similarity[i]))
