"""The part of a list that a fleet still has to measure, by its registry and its journal."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huref.registry.fleet.journal import FAILED, KNOWN, Journal, JournalLine
from huref.registry.fleet.model_list import ListedModel
from huref.registry.fleet.work import Task
from huref.registry.store import Store


@dataclass
class Job:
    """A model to measure and the number of attempts so far."""

    listed: ListedModel
    task: Task
    attempts: int = 0


@dataclass(frozen=True)
class Plan:
    """Jobs, and the lines of the models that need none."""

    jobs: list[Job]
    finished: list[JournalLine]


def make_plan(
    models: Sequence[ListedModel],
    store: Store,
    journal: Journal,
    *,
    recipe: str,
    refresh: bool,
    retry_failed: bool,
    measured_by: str | None,
) -> Plan:
    """Divide models into those to measure and those already done. Sends no requests to the Hub.

    See `fleet` for the arguments.
    """
    digest = store.recipe.digest
    commits = _commits(store)
    plan = Plan([], [])
    for listed in models:
        name = listed.name.partition("@")[0]
        is_local = Path(name).expanduser().exists()  # its entry has the last part of the path
        known = set() if is_local else commits.get(name.lower(), set()) | commits.get(name, set())
        line = journal.find(listed.name, digest)
        if line is not None and listed.commit not in (None, line.revision):
            line = None  # it is about another commit
        is_known = (listed.commit or "") in known
        if line is not None and line.status != FAILED and not refresh:
            is_known |= store.has(line.model, line.revision, digest)
            name = line.model
        if is_known:
            plan.finished.append(JournalLine(listed.name, name, listed.commit, digest, KNOWN))
        elif line is not None and line.status == FAILED and not (line.may_pass or retry_failed):
            plan.finished.append(line)
        else:
            pinned = listed.name
            if listed.commit and "@" not in pinned:
                pinned = f"{pinned}@{listed.commit}"
            task = Task(pinned, recipe, digest, frozenset(known), measured_by)
            plan.jobs.append(Job(listed, task))
    return plan


def _commits(store: Store) -> dict[str, set[str]]:
    """The commits of each model in a registry; "" for a model without one."""
    commits: dict[str, set[str]] = {}
    for label in store.labels():
        # Hub ids are case-insensitive; local paths may not be.
        name = label.model.lower() if label.revision else label.model
        commits.setdefault(name, set()).add(label.revision or "")
    return commits
