"""Adds single models, or another registry's export, to a registry."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huref.api.public import public_path
from huref.errors import HurefError, RecipeError
from huref.evidence.keys import Signer
from huref.progress import track
from huref.registry.exchange import read_jsonl
from huref.registry.fleet.work import Outcome, Task, measure_task, reason_without_model
from huref.registry.signing import sign_entry
from huref.registry.store import Store


@dataclass
class Additions:
    """What became of each model: its name, and for failures {"model": name, "why": reason}.

    A reason does not repeat the model's name.
    """

    added: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)


def add_models(
    store: Store,
    models: Sequence[str],
    recipe: str,
    base: str | None = None,
    measured_by: str | None = None,
    signer: Signer | None = None,
) -> Additions:
    """Add models to a registry, one after the other; a failure does not stop the others.

    Args:
        store: the registry.
        models: folders, Hub ids, records, or .jsonl files that `exchange.export` wrote.
        recipe: name or file of the recipe; its digest must be the registry's.
        base: their base; when None, the base that each model declares.
        measured_by: see `Entry`; empty when None.
        signer: signs what is measured; entries of exports keep their own signatures.
    """
    done = Additions()
    for model in track(models, "models", "model"):
        try:
            if model.endswith(".jsonl"):
                done.added.append(f"{model} (models: {_add_exported(store, Path(model))})")
                continue
            outcome = _measure(store, model, recipe, measured_by)
            if outcome.entry is None:
                done.failed.append({"model": model, "why": outcome.reason})
                continue
            entry = outcome.entry
            if base is not None:
                entry = dataclasses.replace(entry, base=public_path(base))
            entry = store.free_name(entry)
            if signer is not None:
                entry = sign_entry(entry, signer)
            (done.added if store.add([entry]) else done.known).append(entry.model)
        except HurefError as error:
            done.failed.append({"model": model, "why": reason_without_model(error, model)})
    return done


def _add_exported(store: Store, path: Path) -> int:
    recipe, entries = read_jsonl(path)
    if recipe.digest != store.recipe.digest:
        raise RecipeError(
            f"made by the recipe {recipe.digest}, but the registry {store.uri} has "
            f"{store.recipe.digest}",
            file=path,
        )
    return store.add(entries)


def _measure(store: Store, model: str, recipe: str, measured_by: str | None) -> Outcome:
    return measure_task(Task(model, recipe, store.recipe.digest, measured_by=measured_by))
