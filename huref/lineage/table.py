"""The table of all pairs of some models."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from typing import Any

from huref.errors import RecipeError
from huref.invariants.record import Record
from huref.lineage.evidence import Direction, Evidence, Mixing
from huref.lineage.mixing import find_mixings
from huref.lineage.pair_evidence import find_evidence
from huref.lineage.parts_and_distance import with_components, with_distance
from huref.lineage.screening import screen_pairs
from huref.lineage.signs import is_unsettled, signs_of, with_signs
from huref.lineage.similarity import Similarity, compare_all
from huref.lineage.term_sums import RowSums
from huref.lineage.verdict import DESCENT_ICS


@dataclass(frozen=True)
class Pair:
    """Two models, their similarity, and the evidence of their relation."""

    a: str
    b: str
    similarity: Similarity
    evidence: Evidence = field(default_factory=Evidence)

    @property
    def why(self) -> str:
        """One sentence: the reason for the verdict, or what is missing for one."""
        s, e = self.similarity, self.evidence
        return e.why or s.why or "similarity only: hidden units were not compared"

    @property
    def older(self) -> str | None:
        """The model nearer the root, where a direction was found."""
        direction = self.evidence.direction
        return None if direction is None else {"a": self.a, "b": self.b}[direction.older]

    def to_json(self) -> dict[str, Any]:
        """The pair in `compare --json` (docs/json.md); figures that were not measured are null.

        `retained` is the retention of a in b and of b in a; `blocks` is the block of a that each
        block of b comes from.
        """
        s, e = self.similarity, self.evidence
        units = None
        if e.units is not None:
            units = {"matched": e.units.matched, "of": e.units.of, "layer": e.units.layer}
        return {
            "a": self.a,
            "b": self.b,
            "ics": s.ics,
            "terms": s.terms,
            "shared_anchors": s.shared_anchors,
            "units": units,
            "log10_p": e.log10_p,
            "test": e.test,
            "latent_cosine": s.latent_cosine,
            "verdict": e.verdict,
            "why": self.why,
            "retained": None if e.retention is None else [e.retention.of_a, e.retention.of_b],
            "shares": None
            if e.shares is None
            else {"of_a_in_b": e.shares.of_a_in_b, "of_b_in_a": e.shares.of_b_in_a},
            "older": self.older,
            "blocks": None if e.layer_map is None else list(e.layer_map.source),
            "same": e.same,
            "same_blocks": None if e.same_blocks is None else list(e.same_blocks),
            "moved": None if e.moved is None else e.moved.to_json(),
            "components": None
            if e.components is None
            else [part.to_json() for part in e.components],
        }


@dataclass(frozen=True)
class Failure:
    """A model that could not be read, and why."""

    model: str
    error: str


@dataclass(frozen=True)
class LineageTable:
    """All pairs of some records, in the order in which the models were given.

    `failed` lists the models that could not be read; no pair has one of them.
    """

    records: tuple[Record, ...]
    pairs: tuple[Pair, ...]
    mixings: tuple[Mixing, ...] = ()
    failed: tuple[Failure, ...] = ()

    @property
    def models(self) -> list[str]:
        """The models as the user called them."""
        return [record.model for record in self.records]

    @property
    def labels(self) -> list[str]:
        """Short unique names: the last part of a name, or all of it, with a number where needed."""
        short = [model.rstrip("/").rpartition("/")[2] for model in self.models]
        labels = [
            part if len({m for m, s in zip(self.models, short, strict=True) if s == part}) == 1
            else model
            for part, model in zip(short, self.models, strict=True)
        ]  # fmt: skip
        return [
            label if labels.index(label) == i else f"{label} #{labels[: i + 1].count(label)}"
            for i, label in enumerate(labels)
        ]

    @property
    def unsettled(self) -> set[int]:
        """Indices of the models of pairs whose verdict unread blocks may change."""
        pairs = zip(combinations(range(len(self.records)), 2), self.pairs, strict=True)
        return {
            index
            for (i, j), pair in pairs
            if is_unsettled(pair.evidence, self.records[i], self.records[j])
            for index in (i, j)
        }

    @property
    def families(self) -> list[list[int]]:
        """Models from one training run, as lists of indices, the largest family first.

        Two models are of one family when the verdict of their pair is `descends`, or when a chain
        of such pairs joins them. A model without relatives is a family of its own.
        """
        group = list(range(len(self.records)))
        for (i, j), pair in zip(combinations(group.copy(), 2), self.pairs, strict=True):
            if pair.evidence.verdict == "descends":
                group = [group[i] if g == group[j] else g for g in group]
        members = [[k for k, g in enumerate(group) if g == name] for name in dict.fromkeys(group)]
        return sorted(members, key=len, reverse=True)

    def to_json(self) -> dict[str, Any]:
        """What `compare --json` prints (docs/json.md)."""
        return {
            "models": self.models,
            "pictures": [
                {"model": record.model} | asdict(record.seal)
                for record in self.records
                if record.seal is not None
            ],
            "recipe": self.records[0].recipe.digest,
            "files": [record.files for record in self.records],
            "pairs": [pair.to_json() for pair in self.pairs],
            "mixings": [mixing.to_json() for mixing in self.mixings],
            "signs": {record.model: list(signs_of(record)) for record in self.records},
            "failed": [asdict(failure) for failure in self.failed],
        }


MANY_PAIRS = 3000  # in larger tables units are compared only where ICS or barcodes call for it
CLOSE_ICS = 0.02  # ICS from which units are compared; unrelated models stay below it
NOT_COMPARED = "hidden units were not compared in a table of this size"


def build_table(records: Sequence[Record], components: bool = False) -> LineageTable:
    """Compare every two records.

    Args:
        records: at least two.
        components: whether every pair is compared part by part.

    Raises:
        RecipeError: two records were made by different recipes.
    """
    if len(records) < 2:
        raise RecipeError("a comparison needs at least two models")
    similarities = _compare_all(records)
    large = len(similarities) > MANY_PAIRS
    screened = screen_pairs(records) if large else set()
    sums = RowSums()
    pairs = []
    for (i, j), s in sorted(similarities.items()):
        skip = large and not _needs_units(s.ics, (i, j) in screened)
        evidence = find_evidence(records[i], records[j], s, NOT_COMPARED if skip else "")
        evidence = with_signs(evidence, records[i], records[j])
        evidence = with_distance(evidence, records[i], records[j], sums)
        if components:
            evidence = with_components(evidence, records[i], records[j])
        pairs.append(Pair(records[i].model, records[j].model, s, evidence))
    table = LineageTable(tuple(records), tuple(pairs))
    families = [[records[i] for i in family] for family in table.families]
    older = {
        (pair.older, pair.b if pair.older == pair.a else pair.a) for pair in pairs if pair.older
    }
    mixings = tuple(m for family in families for m in find_mixings(family, older))
    return replace(table, pairs=tuple(_put_parents_first(pairs, mixings)), mixings=mixings)


def _needs_units(ics: float | None, screened: bool) -> bool:
    """Whether the units of a pair of a large table have to be compared.

    Args:
        ics: of the pair.
        screened: whether its barcodes look related.
    """
    if ics is None or ics < CLOSE_ICS:
        return screened
    return ics < DESCENT_ICS


def _put_parents_first(pairs: Iterable[Pair], mixings: Iterable[Mixing]) -> Iterator[Pair]:
    """The pairs, with the parents of a mixture as the older models.

    A mean of models is nearer to their root than each of them, so a merge alone looks older.
    """
    mixed = {(mixing.child, parent) for mixing in mixings for parent in mixing.parents}
    for pair in pairs:
        if (pair.a, pair.b) in mixed:
            direction = Direction("b", "a is a mixture of b and others")
        elif (pair.b, pair.a) in mixed:
            direction = Direction("a", "b is a mixture of a and others")
        else:
            yield pair
            continue
        yield replace(pair, evidence=replace(pair.evidence, direction=direction))


def _compare_all(records: Sequence[Record]) -> dict[tuple[int, int], Similarity]:
    """The similarity of records i < j under (i, j)."""
    recipes: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        recipes.setdefault(record.recipe.digest, []).append(i)
    table: dict[tuple[int, int], Similarity] = {}
    for left, right in combinations(recipes.values(), 2):
        similarity = _explain_difference(records[left[0]], records[right[0]])
        table |= {(min(i, j), max(i, j)): similarity for i in left for j in right}
    for group in recipes.values():
        compared = compare_all([records[i] for i in group])
        table |= {(group[i], group[j]): s for (i, j), s in compared.items()}
    return table


def _explain_difference(a: Record, b: Record) -> Similarity:
    """A missing similarity, with the reason, for two records of different recipes.

    Raises:
        RecipeError: the user chose different recipes.
    """
    differences = a.recipe.differences(b.recipe)
    forced = "name" in differences and set(differences) <= {"name", "anchors", "layers", "m"}
    if forced and a.recipe.family == b.recipe.family:
        # One of the models needs a variant of the recipe; the user did not choose it.
        names = f"'{a.recipe.name}' and '{b.recipe.name}'"
        advice = "; a recipe file with a smaller m fits both" if "m" in differences else ""
        why = f"not comparable: recipes {names} differ{advice}"
        return Similarity(None, None, None, None, why)
    digests = f"{a.recipe.digest} and {b.recipe.digest}: {', '.join(differences)} differ"
    raise RecipeError(
        f"{a.model} and {b.model} were made by different recipes ({digests})",
        advice="fingerprint both with one recipe",
    )
