"""`huref.bench`: a list of pairs with expected verdicts, measured and counted."""

import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huref.api.bench_journal import BenchJournal
from huref.api.compare import settle
from huref.api.open import measure, read_on
from huref.api.pairs_file import DISPUTED, ListedPair, PairList, find_list, read_pairs
from huref.errors import HurefError, locating, one_line
from huref.invariants.record import Record
from huref.lineage.calibration import exact_interval
from huref.lineage.table import Pair
from huref.progress import track
from huref.recipe import load_recipe

Status = Literal["right", "wrong", "inconclusive", "disputed", "not measured"]
STATUSES: tuple[Status, ...] = ("right", "wrong", "inconclusive", "disputed", "not measured")
COUNTED: tuple[Status, ...] = ("right", "wrong", "inconclusive")
MOST_RECORDS = 48  # records in memory at once; others are taken from the cache again


@dataclass(frozen=True)
class BenchPair:
    """A row of the list and what was measured.

    Attributes:
        listed: the row.
        status: how the verdict compares with the expected one; "inconclusive" also where the pair
            got no verdict.
        why: the reason for the verdict, or why there is no measurement.
        measured: the pair as in `compare --json`, or None.
        notes: what the reader must know of the row besides.
    """

    listed: ListedPair
    status: Status
    why: str
    measured: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def direction(self) -> Literal["right", "wrong", "silent"] | None:
        """How the measured direction compares with the list's; None where the list has none."""
        if self.listed.older is None or self.status not in COUNTED or self.measured is None:
            return None
        older = self.measured["older"]
        if older is None:
            return "silent"
        expected = {"a": self.listed.id_a, "b": self.listed.id_b}[self.listed.older]
        return "right" if older == expected else "wrong"

    def to_json(self) -> dict[str, Any]:
        """One item of `pairs` in `bench --json`."""
        listed = self.listed
        return {
            "line": listed.line,
            "id_a": listed.id_a,
            "id_b": listed.id_b,
            "relation": listed.relation,
            "expected": listed.expected,
            "status": self.status,
            "verdict": None if self.measured is None else self.measured["verdict"],
            "why": self.why,
            "direction": self.direction,
            "notes": list(self.notes),
            "rivals": listed.rivals,
            "others": listed.others,
            "measured": None if self.measured is None else dict(self.measured),
        }


@dataclass(frozen=True)
class Score:
    """The results of some rows.

    Attributes:
        counts: number of rows by status.
        directions: number of rows by how the direction compares with the list's.
    """

    counts: Mapping[str, int]
    directions: Mapping[str, int]

    @classmethod
    def of(cls, pairs: Iterable[BenchPair]) -> "Score":
        """The results of these rows."""
        pairs = list(pairs)
        directions: Counter[str] = Counter(pair.direction for pair in pairs if pair.direction)
        return cls(Counter(pair.status for pair in pairs), directions)

    @property
    def measured(self) -> int:
        """Number of measured rows that are not disputed."""
        return sum(self.counts.get(status, 0) for status in COUNTED)

    def to_json(self) -> dict[str, Any]:
        """The counts, and exact 95 % intervals of the rates of right and wrong verdicts."""
        right, wrong = self.counts.get("right", 0), self.counts.get("wrong", 0)
        return {
            "right": right,
            "wrong": wrong,
            "inconclusive": self.counts.get("inconclusive", 0),
            "of": self.measured,
            "right_interval": list(exact_interval(right, self.measured)),
            "wrong_interval": list(exact_interval(wrong, self.measured)),
            "disputed": self.counts.get("disputed", 0),
            "not_measured": self.counts.get("not measured", 0),
            "direction": {
                name: self.directions.get(name, 0) for name in ("right", "wrong", "silent")
            },
        }


@dataclass(frozen=True)
class Bench:
    """The results of a list.

    Attributes:
        path: the list.
        recipe: digest of the recipe.
        pairs: one for each row, in the order of the list.
        models: costs of each model, or its `error`.
        faults: what is wrong with the list as a whole.
    """

    path: Path
    recipe: str
    pairs: tuple[BenchPair, ...]
    models: tuple[Mapping[str, Any], ...]
    faults: tuple[str, ...] = ()

    @property
    def relations(self) -> dict[str, Score]:
        """The results by relation, in the order of the list."""
        groups: dict[str, list[BenchPair]] = {}
        for pair in self.pairs:
            groups.setdefault(pair.listed.relation, []).append(pair)
        return {relation: Score.of(pairs) for relation, pairs in groups.items()}

    @property
    def score(self) -> Score:
        """The results of all rows."""
        return Score.of(self.pairs)

    @property
    def is_complete(self) -> bool:
        """Whether every row was measured as the list has it."""
        flawed = any(pair.notes or pair.status == "not measured" for pair in self.pairs)
        return not flawed and not self.faults

    def to_json(self) -> dict[str, Any]:
        """The object that `bench --json` prints."""
        return {
            "list": str(self.path),
            "recipe": self.recipe,
            **self.score.to_json(),
            "faults": list(self.faults),
            "relations": [
                {"relation": relation, **score.to_json()}
                for relation, score in self.relations.items()
            ],
            "pairs": [pair.to_json() for pair in self.pairs],
            "models": [dict(model) for model in self.models],
        }


def bench(
    pairs: str | Path | PairList,
    *,
    recipe: str = "default",
    cache: bool = True,
    journal: str | Path | None = None,
    resume: bool = False,
) -> Bench:
    """Measure the pairs of a list and count right and wrong verdicts.

    Each model is read once. A model that fails costs its own pairs only.

    Args:
        pairs: a tab-separated file with the columns id_a, id_b, relation and expected; "public" is
            the list that ships with huref.
        recipe: name or YAML file of a recipe.
        cache: whether stored records are used, and new ones stored.
        journal: file to which results are appended as they are measured.
        resume: whether pairs in the journal are taken from it; failed models are tried again.

    Raises:
        HurefError: the list cannot be read, or the journal cannot be written.
    """
    listed = pairs if isinstance(pairs, PairList) else read_pairs(find_list(str(pairs)))
    digest = load_recipe(recipe)[0].digest
    kept = BenchJournal(None if journal is None else Path(journal), digest, resume=resume)
    wanted = [pair for pair in listed.pairs if not pair.fault]
    models = _Models(wanted, kept, recipe, cache)
    failures: dict[tuple[str, str], str] = {}
    for pair in track(wanted, "pairs"):
        key = (pair.id_a, pair.id_b)
        if key in kept.pairs or key in failures:
            models.release(pair)
            continue
        try:
            names = pair.id_a, pair.id_b
            records = [models.open(name) for name in names]
            found = settle(records, recipe, cache, names).pairs[0]
        except Exception as error:  # a list that runs overnight survives any model
            failures[key] = _explain(error)
        else:
            kept.add_pair(_as_listed(found, pair))
        models.release(pair)
    rows = tuple(_judge(pair, kept, failures, models) for pair in listed.pairs)
    return Bench(listed.path, digest, rows, tuple(models.costs()), listed.faults)


def _as_listed(found: Pair, pair: ListedPair) -> dict[str, Any]:
    """A measured pair under the list's names: a saved record has a name of its own."""
    names = {"a": pair.id_a, "b": pair.id_b}
    direction = found.evidence.direction
    return {**found.to_json(), **names, "older": direction and names[direction.older]}


def _judge(
    pair: ListedPair,
    kept: BenchJournal,
    failures: Mapping[tuple[str, str], str],
    models: "_Models",
) -> BenchPair:
    key = (pair.id_a, pair.id_b)
    if pair.fault or key in failures:
        return BenchPair(pair, "not measured", pair.fault or failures[key])
    measured = kept.pairs[key]
    notes = tuple(filter(None, map(models.describe_renaming, dict.fromkeys(key))))
    verdict = measured["verdict"]
    status: Status = "wrong"
    if pair.expected == DISPUTED:
        status = "disputed"
    elif verdict == pair.expected:
        status = "right"
    elif verdict in (None, "inconclusive"):
        status = "inconclusive"
    return BenchPair(pair, status, str(measured["why"]), measured, notes)


def _names(pair: ListedPair) -> tuple[str, ...]:
    """The models of a pair, each once."""
    return tuple(dict.fromkeys((pair.id_a, pair.id_b)))


class _Models:
    """The records of a list's models: each is read once and dropped after its last pair."""

    def __init__(
        self, pairs: Iterable[ListedPair], journal: BenchJournal, recipe: str, cache: bool
    ):
        self._journal, self._recipe, self._cache = journal, recipe, cache
        self._left = Counter(name for pair in pairs for name in _names(pair))
        self._names = list(self._left)
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._failures: dict[str, Exception] = {}

    def open(self, name: str) -> Record:
        """The record of a model.

        Raises:
            Exception: it cannot be read, now or at an earlier attempt.
        """
        if name in self._failures:
            raise self._failures[name]
        if name not in self._records:
            self._records[name] = self._measure(name)
            # Without a cache a record that is dropped would have to be read again.
            if self._cache and len(self._records) > MOST_RECORDS:
                self._records.popitem(last=False)
        self._records.move_to_end(name)
        return self._records[name]

    def _measure(self, name: str) -> Record:
        began = time.perf_counter()
        try:
            with locating(model=name):
                record, costs = measure(name, self._recipe, cache=self._cache)
                record = read_on(record, self._recipe, self._cache, model=name)
        except Exception as error:
            self._failures[name] = error
            raise
        if name not in self._journal.models:
            self._journal.add_model(
                {
                    "model": name,
                    "revision": record.revision,
                    "renamed_to": costs.renamed_to,
                    "seconds": round(time.perf_counter() - began, 3),
                    "bytes_read": costs.bytes_read,
                    "bytes_total": costs.bytes_total,
                    "files": record.files,
                    "error": None,
                }
            )
        return record

    def release(self, pair: ListedPair) -> None:
        """Drop the records that no later pair needs."""
        for name in _names(pair):
            self._left[name] -= 1
            if not self._left[name]:
                self._records.pop(name, None)

    def describe_renaming(self, name: str) -> str:
        """A note where the Hub has the model under another name; else ""."""
        renamed = self._journal.models.get(name, {}).get("renamed_to")
        return f"{one_line(name)} was renamed to {one_line(renamed)}" if renamed else ""

    def costs(self) -> Iterable[Mapping[str, Any]]:
        """Costs of each model, in the order of the list."""
        for name in self._names:
            if name in self._failures:
                empty = dict.fromkeys(("revision", "renamed_to"))
                figures = {"seconds": 0.0, "bytes_read": 0, "bytes_total": 0, "files": None}
                error = _explain(self._failures[name])
                yield {"model": name, **empty, **figures, "error": error}
            elif name in self._journal.models:
                # A journal that was begun before files were kept has none.
                yield {"files": None, **self._journal.models[name]}


def _explain(error: Exception) -> str:
    """An error as one line; errors that are not huref's own name their class."""
    if isinstance(error, HurefError | OSError):
        return one_line(error)
    if isinstance(error, MemoryError):
        return "out of memory"
    return one_line(f"unexpected {type(error).__name__}: {error}")
