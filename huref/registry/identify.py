"""Which base is it? A model against a registry of known bases."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from huref.api.fingerprint import render
from huref.api.open import open_record
from huref.decoder.picture import contact_sheet
from huref.errors import HurefError, ModelNotFoundError, RecipeError, one_line
from huref.invariants.record import Record
from huref.lineage.evidence import Evidence
from huref.lineage.similarity import Similarity
from huref.lineage.table import build_table
from huref.lineage.verdict import judge
from huref.registry.chance import LATENT_SPREAD, is_worth_reading, log10_stranger
from huref.registry.entry import Entry, make_query
from huref.registry.store import Match, Store
from huref.registry.stores import open_store

Answer = Literal["descends", "shared initialisation", "inconclusive", "none"]
SHOWN = 3  # candidates, however little they resemble the model
READ = 5  # candidates whose weights are read at most
LEVEL = -2.0  # log10 of a stranger's chance from which on a score alone is worth a verdict
# What a verdict is worth as an answer, best first.
ANSWERS: tuple[Answer, ...] = ("descends", "shared initialisation", "inconclusive")


@dataclass(frozen=True)
class Candidate:
    """A base that may be the model's.

    Attributes:
        match: how the registry found it.
        log10_stranger: log10 of the probability that a stranger scores as high, given how many
            bases were searched.
        similarity: of the full terms; its ICS is None where the base's weights were not read.
        evidence: its verdict is None for a base that scores like a stranger.
    """

    match: Match
    log10_stranger: float
    similarity: Similarity
    evidence: Evidence

    @property
    def model(self) -> str:
        """The base's name."""
        return self.match.entry.model

    def to_json(self) -> dict[str, Any]:
        """The candidate as `huref identify --json` prints it."""
        return {
            "model": self.model,
            "revision": self.match.entry.revision,
            "sketch_ics": self.match.ics,
            "latent_cosine": self.match.latent_cosine,
            "log10_stranger": self.log10_stranger,
            "ics": self.similarity.ics,
            "log10_p": self.evidence.log10_p,
            "verdict": self.evidence.verdict,
            "why": self.evidence.why,
        }


@dataclass(frozen=True)
class Identification:
    """The answer, and the candidates it was chosen from.

    Attributes:
        record: the model that was asked about.
        answer: "descends" and "shared initialisation" are about `base`; "inconclusive" means
            that something is shared with `base` and that it cannot be told what.
        base: the best candidate, or None when the answer is "none".
        of: number of bases searched.
        candidates: best first, at least the nearest three.
    """

    record: Record
    answer: Answer
    base: str | None
    of: int
    candidates: tuple[Candidate, ...]

    @property
    def sentence(self) -> str:
        """The answer in words."""
        if self.base is None:
            return f"none of {self.of} known bases"
        direction = self.chosen.evidence.direction if self.chosen else None
        if self.answer == "descends" and direction is not None and direction.older == "a":
            return f"shares its training with {self.base}, and stands nearer the root"
        words = {
            "descends": "descends from",
            "shared initialisation": "shares an initialisation with",
            "inconclusive": "has something in common with",
        }
        return f"{words[self.answer]} {self.base}"

    @property
    def chosen(self) -> Candidate | None:
        """The candidate behind the answer, or the nearest one; None in an empty registry."""
        named = [c for c in self.candidates if c.model == self.base]
        return next(iter([*named, *self.candidates]), None)

    def to_json(self) -> dict[str, Any]:
        """What `huref identify --json` prints."""
        chosen = self.chosen
        return {
            "model": self.record.model,
            "picture": asdict(self.record.seal) if self.record.seal else None,
            "answer": self.answer,
            "base": self.base,
            "of": self.of,
            "log10_stranger": chosen.log10_stranger if chosen else None,
            "why": chosen.evidence.why if chosen else "the registry holds no bases",
            "candidates": [candidate.to_json() for candidate in self.candidates],
        }

    def draw(self, recipe: str = "default") -> np.ndarray:
        """The model beside its nearest three as one picture, (height, width, 3) uint8."""
        nearest = self.candidates[:SHOWN]
        records = [self.record, *(_as_record(c.match.entry, self.record) for c in nearest)]
        pictures = [render(r, recipe=recipe, redraw=True) for r in records]
        captions = [f"{_short(self.record.model)}\n{self.answer}"]
        for candidate in nearest:
            match = candidate.match
            score = f"z {match.latent_cosine:.2f}" if match.ics is None else f"{match.ics:.2f}"
            verdict = candidate.evidence.verdict or "a stranger"
            captions.append(f"{_short(candidate.model)}\n{score}  {verdict}")
        return contact_sheet(pictures, captions, len(records))


def identify(
    model: str | Path,
    registry: str | Path | Store,
    *,
    recipe: str = "default",
    read: int = READ,
    every: bool = False,
) -> Identification:
    """Look a model up among known bases, and confirm the likely ones by their weights.

    Args:
        model: whatever `huref.fingerprint` takes. From a PNG only the latent can be compared.
        registry: a registry or its URI.
        recipe: by which the model is measured; it must be the registry's.
        read: the most candidates whose weights are read.
        every: search the models that declare a base, too.

    Raises:
        RecipeError: the model was made by another recipe than the registry.
        HurefError: another subclass says what is wrong with the model or the registry.
    """
    store = registry if isinstance(registry, Store) else open_store(str(registry))
    record = open_record(str(model), recipe)
    if record.recipe.digest != store.recipe.digest:
        fields = ", ".join(record.recipe.differences(store.recipe))
        raise RecipeError(
            f"{record.model}: made by the recipe '{record.recipe.name}' {record.recipe.digest}, "
            f"but {store.uri} holds '{store.recipe.name}' {store.recipe.digest} ({fields} differ)"
        )
    return identify_record(record, store, recipe=recipe, read=read, every=every)


def identify_record(
    record: Record,
    store: Store,
    *,
    recipe: str = "default",
    read: int = READ,
    every: bool = False,
) -> Identification:
    """`identify` for a record of the registry's recipe."""
    of = len(store) if every else store.count_bases()
    limit = max(read, SHOWN)
    matches = store.search(make_query(record), limit, bases_only=not every)
    candidates = [
        _consider(record, match, of, recipe if place < read else None)
        for place, match in enumerate(
            tqdm(matches, desc="candidates", unit="model", delay=2, disable=None)
        )
    ]
    for answer in ANSWERS:
        for candidate in candidates:
            if candidate.evidence.verdict == answer:
                return Identification(record, answer, candidate.model, of, tuple(candidates))
    return Identification(record, "none", None, of, tuple(candidates))


def _consider(record: Record, match: Match, of: int, recipe: str | None) -> Candidate:
    """Weigh a candidate; by its weights, if there is a recipe and what for."""
    score = match.latent_cosine if match.ics is None else match.ics
    deviation = LATENT_SPREAD if match.ics is None else match.deviation
    chance = log10_stranger(score, deviation, of)
    unread = Similarity(None, None, None, match.latent_cosine, "")
    if not is_worth_reading(score, deviation, of):
        why = f"scores {score:.3f}, as the best of {of} strangers does"
        return Candidate(match, chance, unread, Evidence(why=why))
    reason = "its weights were not asked for"
    if record.terms is None:
        reason = "a picture has no weights to compare"
    elif recipe is not None:
        try:
            base = open_record(_address(match.entry), recipe)
            pair = build_table([record, base]).pairs[0]
        except (HurefError, OSError) as error:
            reason = f"its weights cannot be read ({one_line(error)})"
        else:
            if pair.similarity.ics is not None:
                return Candidate(match, chance, pair.similarity, pair.evidence)
            reason = pair.similarity.why
    if chance > LEVEL:
        why = f"scores {score:.3f}, as some strangers do, and {reason}"
        return Candidate(match, chance, unread, Evidence(why=why))
    return Candidate(match, chance, unread, _judge_by_score(score, match, reason))


def _judge_by_score(score: float, match: Match, reason: str) -> Evidence:
    """The verdict where only sketches or latents could be compared."""
    kind = "latents" if match.ics is None else "sketches"
    similarity = Similarity(score, None, match.shared_anchors, match.latent_cosine, "")
    return judge(similarity, None, f"by the {kind} alone, as {reason}")


def _address(entry: Entry) -> str:
    """Where an entry's weights are. Without a commit it was a folder or a file, never a Hub id.

    Raises:
        ModelNotFoundError: it was one, and is not here.
    """
    if entry.revision:
        return f"{entry.model}@{entry.revision}"
    if not Path(entry.model).expanduser().exists():
        raise ModelNotFoundError(f"'{entry.model}' is no file or folder here")
    return entry.model


def _as_record(entry: Entry, like: Record) -> Record:
    """What can be drawn of an entry."""
    return Record(entry.model, entry.revision, like.recipe, None, None, None, entry.latent)


def _short(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2]
