"""`huref.compare`: the table of all pairs of some models, records and pictures."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from huref.api.open import open_record, read_on
from huref.api.table_size import require_table_size
from huref.errors import HurefError, locating, one_line
from huref.invariants.extract import Depth
from huref.invariants.record import Record
from huref.lineage.table import Failure, LineageTable, build_table
from huref.progress import track


def compare(
    models: Sequence[str | Path],
    *,
    recipe: str = "default",
    depth: Depth = "recipe",
    cache: bool = True,
    skip_failed: bool = False,
    components: bool = False,
    on_failure: Callable[[Failure], object] | None = None,
) -> LineageTable:
    """Measure each model once and compare every pair.

    Args:
        models: 2 to 1,000 folders, Hub ids, records or fingerprint PNGs, in any mix. From a PNG
            only the latent can be compared.
        recipe: name or YAML file of a recipe, for the models whose weights are read.
        depth: "full" reads the feed-forward networks of every block, for layer maps. With "recipe"
            all blocks are read of a model on this machine that shows a sign of disguise, and of
            those beside it where the verdict hangs on them.
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
    require_table_size(len(models))
    if components:
        depth = "components"
    records: list[Record] = []
    failed: list[Failure] = []
    first: HurefError | OSError | None = None
    tells = on_failure is not None and len(models) > 2  # of two, the error raised says it
    for name in track([str(model) for model in models], "models"):
        try:
            records.append(_open(name, recipe, depth, cache))
        except (HurefError, OSError) as error:
            if not skip_failed:
                raise
            failed.append(Failure(name, one_line(error)))
            first = first or error
            if on_failure is not None and tells:
                on_failure(failed[-1])
    if first is not None and len(records) < 2:
        raise first if len(failed) == 1 else _no_pair(failed, len(models), reasons=not tells)
    if depth == "recipe":
        records = [read_on(record, recipe, cache) for record in records]
        table = settle(records, recipe, cache)
    else:
        table = build_table(records, components=components)
    return replace(table, failed=tuple(failed))


def _no_pair(failed: Sequence[Failure], models: int, reasons: bool) -> HurefError:
    """The error of a table without a pair; with up to three reasons if they were not told yet."""
    what = f"{len(failed)} of {models} models could not be read, so no pair is left"
    if reasons:
        what += ": " + " | ".join(failure.error for failure in failed[:3])
        what += " | ..." if failed[3:] else ""
    return HurefError(what)


def settle(
    records: Sequence[Record], recipe: str, cache: bool, names: Sequence[str] = ()
) -> LineageTable:
    """The table of some records, with all blocks read of those on which a verdict hangs.

    Args:
        records: at the default depth.
        recipe: name or file of a recipe.
        cache: whether stored records are used, and new ones stored.
        names: of the models as `open_record` takes them, if not the records' own.
    """
    table = build_table(records)
    if not table.unsettled:
        return table
    models = names or [record.model for record in records]
    return build_table(
        [
            read_on(record, recipe, cache, model=model, anyway=index in table.unsettled)
            for index, (record, model) in enumerate(zip(records, models, strict=True))
        ]
    )


def _open(name: str, recipe: str, depth: Depth, cache: bool) -> Record:
    """A model's record. An error that names a file alone is made to name the model, too."""
    with locating(model=name):
        return open_record(name, recipe, depth=depth, cache=cache)
