"""`huref.compare` as notebooks and scripts call it: a table that can show itself."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from huref.api import compare as measuring
from huref.errors import HurefError
from huref.invariants.extract import Depth
from huref.lineage import table as measured

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class LineageTable(measured.LineageTable):
    """All pairs of some records, in the order in which the models were given.

    `failed` lists the models that could not be read; no pair has one of them. A notebook shows the
    verdicts in words, the dogs and the figures.
    """

    def __repr__(self) -> str:
        verdicts = Counter(pair.evidence.verdict or "no verdict" for pair in self.pairs)
        counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
        failed = f"; {len(self.failed)} failed" if self.failed else ""
        return f"<LineageTable of {len(self.records)} models: {counts}{failed}>"

    def _repr_html_(self) -> str:
        from huref.report.notebook import show_table

        return show_table(self)

    def _repr_png_(self) -> bytes:
        from huref.report.notebook import draw_comparison

        return draw_comparison(self)

    def to_pandas(self) -> "pandas.DataFrame":
        """One row a pair; a figure that was not measured is missing.

        Columns: a, b, verdict, why, older, ics, qk, vo, ffn, shared_anchors, latent_cosine,
        units_matched, units_of, layer, log10_p, test.

        Raises:
            HurefError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise HurefError("there is no pandas here", advice="pip install pandas") from error
        return pandas.DataFrame([_row(pair) for pair in self.pairs])


def _row(pair: measured.Pair) -> dict[str, object]:
    found = pair.to_json()
    units, terms = found["units"] or {}, found["terms"] or {}
    return {
        **{name: found[name] for name in ("a", "b", "verdict", "why", "older", "ics")},
        **{name: terms.get(name) for name in ("qk", "vo", "ffn")},
        "shared_anchors": found["shared_anchors"],
        "latent_cosine": found["latent_cosine"],
        "units_matched": units.get("matched"),
        "units_of": units.get("of"),
        "layer": units.get("layer"),
        "log10_p": found["log10_p"],
        "test": found["test"],
    }


def compare(
    models: Sequence[str | Path],
    *,
    recipe: str = "default",
    depth: Depth = "recipe",
    cache: bool = True,
    skip_failed: bool = False,
    components: bool = False,
    on_failure: Callable[[measured.Failure], object] | None = None,
) -> LineageTable:
    """Measure each model once and compare every pair.

    Args:
        models: 2 to 1,000 folders, Hub ids, records or fingerprint PNGs, in any mix. From a PNG
            only the latent can be compared.
        recipe: name or YAML file of a recipe, for the models whose weights are read.
        depth: "full" reads the feed-forward networks of every block, for layer maps. With "recipe"
            all blocks are read of a model on this machine that shows a sign of disguise.
        cache: whether stored records are used, and new ones stored.
        skip_failed: whether models that cannot be read are listed in the table's `failed` and cost
            only their own pairs, as long as two others can be read.
        components: whether every pair is compared part by part. All blocks are read, and what a
            multimodal model holds beside its language model.
        on_failure: called with each model that is skipped, as soon as it is known, if there are
            more than two.

    Raises:
        RecipeError: two records were made by different recipes.
        HurefError: a model could not be read, and it is not skipped; the message names it. Or
            there are too many models, or fewer than two that could be read.
    """
    found = measuring.compare(
        models,
        recipe=recipe,
        depth=depth,
        cache=cache,
        skip_failed=skip_failed,
        components=components,
        on_failure=on_failure,
    )
    return LineageTable(**{field.name: getattr(found, field.name) for field in fields(found)})
