"""Models that a user names, measured or taken from another registry's export, into a registry."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from huref.errors import HurefError, RecipeError, RegistryError, one_line
from huref.registry.entry import Entry
from huref.registry.exchange import read_jsonl
from huref.registry.fleet.work import Task, measure_task
from huref.registry.store import Store


@dataclass
class Additions:
    """What became of each model: names, and for failures {"model": name, "why": reason}."""

    added: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)


def add_models(
    store: Store,
    models: Sequence[str],
    recipe: str,
    base: str | None = None,
    measured_by: str | None = None,
) -> Additions:
    """Add models to a registry, one after the other; one that fails does not stop the others.

    Args:
        store: the registry.
        models: folders, Hub ids, records, or .jsonl files that `exchange.export` wrote.
        recipe: name or file of the recipe to measure them by; its digest must be the registry's.
        base: their base; what each declares when None.
        measured_by: who measures; the login name when None.
    """
    done = Additions()
    for model in tqdm(models, unit="model", delay=2, disable=None):
        try:
            if model.endswith(".jsonl"):
                done.added.append(f"{model} (models: {_add_exported(store, Path(model))})")
                continue
            entry = _measure(store, model, recipe, measured_by)
            if base is not None:
                entry = dataclasses.replace(entry, base=base)
            (done.added if store.add([entry]) else done.known).append(entry.model)
        except HurefError as error:
            done.failed.append({"model": model, "why": one_line(error)})
    return done


def _add_exported(store: Store, path: Path) -> int:
    recipe, entries = read_jsonl(path)
    if recipe.digest != store.recipe.digest:
        raise RecipeError(
            f"{path}: made by the recipe {recipe.digest}, but {store.uri} holds "
            f"{store.recipe.digest}"
        )
    return store.add(entries)


def _measure(store: Store, model: str, recipe: str, measured_by: str | None) -> Entry:
    outcome = measure_task(Task(model, recipe, store.recipe.digest, measured_by=measured_by))
    if outcome.entry is None:
        raise RegistryError(outcome.reason)
    return outcome.entry
