"""Measures one model, in a thread, a process or on another machine."""

import copy
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from huref.api.open import kind_of_file, make_record, open_record
from huref.errors import HurefError, NetworkError, RecipeError, one_line
from huref.files import as_path
from huref.invariants.extract import extract_terms
from huref.invariants.record import Record
from huref.loader.checkpoint import Checkpoint
from huref.loader.declarations import read_declarations
from huref.loader.model_name import open_repository
from huref.loader.ranges import Meter
from huref.loader.repository import Repository
from huref.loader.sources.adapters import CONFIG as ADAPTER_CONFIG
from huref.loader.sources.adapters import declared_base
from huref.recipe import Recipe, load_recipe
from huref.registry.entry import Entry, make_entry
from huref.registry.fleet.journal import DONE, FAILED, KNOWN


class WorkerDiedError(Exception):
    """A worker died before it returned a result; its model was not measured."""


@dataclass(frozen=True)
class Task:
    """A model to measure.

    Attributes:
        name: as listed, with its commit if that is known.
        recipe: name or file of the recipe on the worker's machine.
        digest: the expected digest of the recipe.
        known: commits of the model that the registry has.
        measured_by: see `Entry`; empty when None.
    """

    name: str
    recipe: str
    digest: str
    known: frozenset[str] = frozenset()
    measured_by: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The result of a task; see `JournalLine`. The entry is None unless the status is "done"."""

    model: str
    revision: str | None
    status: str
    entry: Entry | None = field(default=None, repr=False)
    kind: str = ""
    reason: str = ""
    seconds: float = 0.0
    bytes_read: int = 0


_generation = 0  # of the tasks in this process's threads; older ones are to stop


def stop_threads() -> None:
    """Stop the tasks in this process's threads when they read the next bytes."""
    global _generation
    _generation += 1


class _StoppableMeter(Meter):
    def __init__(self) -> None:
        super().__init__()
        self._generation = _generation

    def count(self, length: int, requests: int = 0) -> None:
        super().count(length, requests)
        if self._generation != _generation:
            raise NetworkError("the fleet was stopped while the model was being read")


def measure_task(task: Task) -> Outcome:
    """Measure one model. A HurefError, OSError or MemoryError becomes the outcome's reason."""
    began = time.perf_counter()
    meter = _StoppableMeter()
    model, revision, entry = task.name.partition("@")[0], None, None
    status, kind, reason = DONE, "", ""
    try:
        path = as_path(task.name)
        if path.is_file() and kind_of_file(path) != "weights":
            record, base = open_record(task.name, task.recipe), None
            model, revision = record.model, record.revision
        else:
            repository = open_repository(task.name, meter)
            model, base = _names(repository)
            revision = repository.revision
            if revision is not None and revision in task.known:
                return Outcome(model, revision, KNOWN, seconds=time.perf_counter() - began)
            record = _read(repository, model, task)
        entry = _entry(record, base, task)
        model = entry.model
    except (HurefError, OSError, MemoryError) as error:
        status, kind = FAILED, type(error).__name__
        reason = reason_without_model(error, task.name) or "out of memory; use fewer workers"
    seconds = time.perf_counter() - began
    return Outcome(model, revision, status, entry, kind, reason, seconds, meter.bytes_read)


def reason_without_model(error: Exception, model: str) -> str:
    """An error's message in one line, without the model that the reader sees beside it."""
    if isinstance(error, HurefError):
        error = copy.copy(error)
        error.model = None
        if error.file is not None and Path(error.file) == Path(model):
            error.file = None
    return one_line(error)


def _names(repository: Repository) -> tuple[str, str | None]:
    """The model's name in the registry, and the base that it declares."""
    # The Hub's client takes half a second to import; a local model does not need it.
    from huref.loader.hub.repository import HubRepository

    if not isinstance(repository, HubRepository):
        firm = [one.model or one.base for one in read_declarations(repository)[0] if one.firm]
        return repository.model, firm[0] if firm else None
    # Each model is read once, and cached headers of a hundred thousand models would fill a disk.
    repository.caches_headers = False
    base: object = repository.declared_base  # from the Hub, which parses the card
    if base is None and ADAPTER_CONFIG in repository.files:
        base = declared_base(repository)
    parts = (repository.canonical, repository.chosen)
    return "/".join(part for part in parts if part), base if isinstance(base, str) else None


def _read(repository: Repository, model: str, task: Task) -> Record:
    recipe, encoder = _recipe(task)
    checkpoint = Checkpoint(repository)
    # A registry stores no units; `identify` reads those of the few candidates it compares.
    record = make_record(checkpoint, extract_terms(checkpoint, recipe, "terms"), encoder)
    return replace(record, model=model)


def _recipe(task: Task) -> tuple[Recipe, Path]:
    recipe, encoder, _ = load_recipe(task.recipe)
    if recipe.digest != task.digest:
        raise RecipeError(
            f"the recipe '{task.recipe}' is {recipe.digest} here, but the registry has "
            f"{task.digest}",
            advice="give the registry's recipe with --recipe, or use the version of huref that "
            "made the registry",
        )
    return recipe, encoder


def _entry(record: Record, base: str | None, task: Task) -> Entry:
    if record.recipe.digest != task.digest:
        raise RecipeError(
            f"measured by the recipe '{record.recipe.name}' {record.recipe.digest}, but the "
            f"registry has {task.digest}",
            model=record.model,
        )
    return make_entry(record, base, task.measured_by)
