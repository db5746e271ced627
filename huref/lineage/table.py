"""The table of all pairs of some models."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from typing import Any

from huref.errors import RecipeError
from huref.invariants.published import PUBLISHED
from huref.invariants.record import Record
from huref.lineage.correspondence import compare_units
from huref.lineage.direction import find_direction
from huref.lineage.evidence import Evidence, Mixing
from huref.lineage.layers import map_layers
from huref.lineage.mixing import find_mixings
from huref.lineage.similarity import Similarity, compare_all
from huref.lineage.token_free import compare_barcodes
from huref.lineage.verdict import judge


@dataclass(frozen=True)
class Pair:
    """Two models, how alike they are, and what the unit tests say of them."""

    a: str
    b: str
    similarity: Similarity
    evidence: Evidence = field(default_factory=Evidence)

    @property
    def why(self) -> str:
        """One sentence: what the verdict rests on, or what is missing for one."""
        s, e = self.similarity, self.evidence
        return e.why or s.why or "similarity only: the units were not compared"

    @property
    def older(self) -> str | None:
        """The model that stands nearer the root, where that can be told."""
        direction = self.evidence.direction
        return None if direction is None else {"a": self.a, "b": self.b}[direction.older]

    def to_json(self) -> dict[str, Any]:
        """The pair as the design's `compare --json` has it; figures not measured are null.

        Beyond the design: `older`, and `blocks`, which block of a each block of b comes from.
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
            "older": self.older,
            "blocks": None if e.layer_map is None else list(e.layer_map.source),
        }


@dataclass(frozen=True)
class LineageTable:
    """All pairs of some records, in the order in which the models were given."""

    records: tuple[Record, ...]
    pairs: tuple[Pair, ...]
    mixings: tuple[Mixing, ...] = ()

    @property
    def models(self) -> list[str]:
        """The models as the user called them."""
        return [record.model for record in self.records]

    @property
    def labels(self) -> list[str]:
        """Short names that tell the models apart: the last part, or the whole name, or a number."""
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
    def families(self) -> list[list[int]]:
        """Models that one training lies behind, as lists of indices, largest family first.

        Two models belong together when the verdict of their pair is `descends`, and so do all
        that are joined by such pairs. A model without relatives is a family of its own.
        """
        home = list(range(len(self.records)))
        for (i, j), pair in zip(combinations(home.copy(), 2), self.pairs, strict=True):
            if pair.evidence.verdict == "descends":
                home = [home[i] if h == home[j] else h for h in home]
        members = [[k for k, h in enumerate(home) if h == name] for name in dict.fromkeys(home)]
        return sorted(members, key=len, reverse=True)

    def to_json(self) -> dict[str, Any]:
        """The table as the design's `compare --json` has it."""
        return {
            "models": self.models,
            "recipe": self.records[0].recipe.digest,
            "pairs": [pair.to_json() for pair in self.pairs],
            "mixings": [asdict(mixing) for mixing in self.mixings],
        }


MANY_PAIRS = 3000  # beyond it units are compared only where the ICS leaves a question open
OPEN = (0.02, 0.8)  # that range of the ICS
# Thresholds were measured on whitened terms; unrelated models reach 0.3 and more on published ones.
NO_VERDICT = "the published terms give a similarity and no verdict; use the default recipe for one"


def build_table(records: Sequence[Record]) -> LineageTable:
    """Compare every two records.

    Raises:
        RecipeError: two records were made by different recipes.
    """
    if len(records) < 2:
        raise RecipeError("a comparison needs at least two models")
    similarities = _compare_all(records)
    large = len(similarities) > MANY_PAIRS
    pairs = [
        Pair(
            records[i].model, records[j].model, s, _find_evidence(records[i], records[j], s, large)
        )
        for (i, j), s in sorted(similarities.items())
    ]
    table = LineageTable(tuple(records), tuple(pairs))
    families = [[records[i] for i in family] for family in table.families]
    return replace(table, mixings=tuple(m for family in families for m in find_mixings(family)))


def _find_evidence(a: Record, b: Record, similarity: Similarity, large: bool) -> Evidence:
    """What the units say of a pair, and the verdict; in a large table only where it is open."""
    if similarity.ics is not None and a.recipe.terms == PUBLISHED:
        return Evidence(why=NO_VERDICT)
    if large and (similarity.ics is None or not OPEN[0] <= similarity.ics <= OPEN[1]):
        return judge(similarity, None, "units not compared in a table of this size")
    layer_map = None
    if all(r.units and r.layers and len(r.units.layers) > len(r.layers) for r in (a, b)):
        assert a.units is not None
        assert b.units is not None
        layer_map = map_layers(a.units, b.units)
    units = compare_units(a, b, layer_map.pairs if layer_map else ())
    if units is None:
        silent = [record.model for record in (a, b) if record.units is None]
        return judge(similarity, None, f"no unit features in {' and '.join(silent)}")
    if not units.found:
        without_tokens = compare_barcodes(a, b)
        if without_tokens is not None and without_tokens.found:
            units = without_tokens
    evidence = replace(judge(similarity, units), layer_map=layer_map)
    if evidence.verdict == "descends":
        evidence = replace(evidence, direction=find_direction(a, b, layer_map))
    return evidence


def _compare_all(records: Sequence[Record]) -> dict[tuple[int, int], Similarity]:
    """The similarity of records i < j under (i, j)."""
    recipes: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        recipes.setdefault(record.recipe.digest, []).append(i)
    table: dict[tuple[int, int], Similarity] = {}
    for mine, theirs in combinations(recipes.values(), 2):
        similarity = _explain_difference(records[mine[0]], records[theirs[0]])
        table |= {(min(i, j), max(i, j)): similarity for i in mine for j in theirs}
    for group in recipes.values():
        compared = compare_all([records[i] for i in group])
        table |= {(group[i], group[j]): s for (i, j), s in compared.items()}
    return table


def _explain_difference(a: Record, b: Record) -> Similarity:
    """Why two records of different recipes have no similarity.

    Raises:
        RecipeError: because somebody chose different recipes.
    """
    differences = a.recipe.differences(b.recipe)
    forced = "name" in differences and set(differences) <= {"name", "anchors", "layers", "m"}
    if forced and a.recipe.family == b.recipe.family:
        # One of the models forced a variant on itself; that is no fault of the user's.
        names = f"'{a.recipe.name}' and '{b.recipe.name}'"
        way = "; a recipe file with a smaller m does for both" if "m" in differences else ""
        why = f"not comparable: recipes {names} differ{way}"
        return Similarity(None, None, None, None, why)
    raise RecipeError(
        f"{a.model} and {b.model} were made by different recipes ({a.recipe.digest} and "
        f"{b.recipe.digest}: {', '.join(differences)} differ); fingerprint both with one recipe"
    )
