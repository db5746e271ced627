"""Finds the base of a model in a registry of known bases."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from huref.api.open import open_record, read_on
from huref.errors import HurefError, ModelNotFoundError, RecipeError, one_line
from huref.invariants.record import Record
from huref.lineage.evidence import Evidence, Mixing
from huref.lineage.signs import signs_of
from huref.lineage.similarity import Similarity
from huref.lineage.table import Pair, build_table
from huref.lineage.verdict import judge
from huref.progress import track
from huref.registry.chance import LATENT_SPREAD, is_worth_reading, log10_stranger
from huref.registry.entry import Entry, make_query
from huref.registry.identification import ANSWERS, SHOWN, Answer, Candidate, Identification
from huref.registry.places import recall_place
from huref.registry.signing import check_entry
from huref.registry.store import SearchResult, Store
from huref.registry.stores import open_store

READ = 5  # the most candidates whose weights are read
ROUNDING = 1e-4  # of a latent's number between machines; measured in docs/evidence.md
LEVEL = -2.0  # largest log10 probability of an unrelated model at which a score decides alone


def identify(
    model: str | Path,
    registry: str | Path | Store,
    *,
    recipe: str = "default",
    read: int = READ,
    every: bool = False,
) -> Identification:
    """Search known bases by their sketches, and compare the likely ones by their weights.

    Args:
        model: as for `huref.fingerprint`. Of a PNG only the latent can be compared.
        registry: a registry or its URI.
        recipe: by which the model is measured; it must be the registry's.
        read: the largest number of candidates whose weights are read.
        every: also search the models that declare a base.

    Raises:
        RecipeError: the model was measured by another recipe than the registry.
        HurefError: the model or the registry cannot be read; see the subclass.
    """
    store = registry if isinstance(registry, Store) else open_store(str(registry))
    record = read_on(open_record(str(model), recipe), recipe, model=str(model))
    if record.recipe.digest != store.recipe.digest:
        fields = ", ".join(record.recipe.differences(store.recipe))
        raise RecipeError(
            f"made by the recipe '{record.recipe.name}' {record.recipe.digest}, but the registry "
            f"{store.uri} has '{store.recipe.name}' {store.recipe.digest} ({fields} differ)",
            model=record.model,
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
    """See `identify`; the record must have the registry's recipe."""
    of = len(store) if every else store.count_bases()
    limit = max(read, SHOWN)
    matches = store.search(make_query(record), limit, bases_only=not every)
    for match in matches:
        if match.entry.signer or store.require:
            check_entry(store.whole(match.entry), store.require)
    opened: list[Record] = []
    candidates = [
        _mark_same(record, _consider(record, match, of, recipe if place < read else None, opened))
        for place, match in enumerate(track(matches, "candidates", "model"))
    ]
    mixing = _find_mixing(record, opened)
    for answer in ANSWERS:
        for candidate in candidates:
            if candidate.evidence.verdict == answer:
                found = tuple(candidates)
                return Identification(record, answer, candidate.model, of, found, mixing)
    unknown: Answer = "inconclusive" if signs_of(record) else "none"
    return Identification(record, unknown, None, of, tuple(candidates))


def _find_mixing(record: Record, opened: Sequence[Record]) -> Mixing | None:
    """The registered models that a model was merged from, of those whose weights were read."""
    if len(opened) < 2:
        return None
    found = build_table([record, *opened]).mixings
    return next((mixing for mixing in found if mixing.child == record.model), None)


def _mark_same(record: Record, candidate: Candidate) -> Candidate:
    """The candidate, marked where the model is the registered one itself."""
    if record.latent is None or candidate.evidence.verdict is None:
        return candidate
    difference = float(np.abs(record.latent - candidate.match.entry.latent).max())
    return replace(candidate, is_same=difference <= ROUNDING)


def _consider(
    record: Record, match: SearchResult, of: int, recipe: str | None, opened: list[Record]
) -> Candidate:
    """Judge a candidate: by its weights if there is a recipe to read them by, else by its score.

    The record of a candidate whose weights were read is added to `opened`, under its entry's name.
    """
    score = match.latent_cosine if match.ics is None else match.ics
    deviation = LATENT_SPREAD if match.ics is None else match.deviation
    chance = log10_stranger(score, deviation, of)
    unread = Similarity(None, None, None, match.latent_cosine, "")
    disguised = bool(signs_of(record)) and recipe is not None  # its score may be the disguise's
    if not disguised and not is_worth_reading(score, deviation, of):
        why = f"its score of {score:.3f} is one that the best of {of} unrelated models reaches"
        return Candidate(match, chance, unread, Evidence(why=why))
    reason = "its weights were not read"
    if record.terms is None:
        reason = "a picture has no terms to compare"
    elif recipe is not None:
        try:
            pair, base = _compare_with(record, _address(match.entry), recipe)
        except (HurefError, OSError) as error:
            reason = f"its weights cannot be read ({one_line(error)})"
        else:
            opened.append(replace(base, model=match.entry.model))
            if pair.similarity.ics is not None:
                return Candidate(match, chance, pair.similarity, pair.evidence)
            reason = pair.similarity.why
    if chance > LEVEL:
        why = f"its score of {score:.3f} is one that some unrelated models reach, and {reason}"
        return Candidate(match, chance, unread, Evidence(why=why))
    return Candidate(match, chance, unread, _judge_by_score(score, match, reason))


def _compare_with(record: Record, base: str, recipe: str) -> tuple[Pair, Record]:
    """The pair with a base, all of whose blocks are read where the verdict hangs on them."""
    table = build_table([record, open_record(base, recipe)])
    if table.unsettled:
        whole = read_on(table.records[1], recipe, model=base, anyway=True)
        table = build_table([record, whole])
    return table.pairs[0], table.records[1]


def _judge_by_score(score: float, match: SearchResult, reason: str) -> Evidence:
    """The verdict if only sketches or latents could be compared."""
    kind = "latents" if match.ics is None else "sketches"
    similarity = Similarity(score, None, match.shared_anchors, match.latent_cosine, "")
    return judge(similarity, None, f"from the {kind} alone, because {reason}")


def _address(entry: Entry) -> str:
    """The name by which an entry's weights are opened.

    An entry without a commit was a folder or a file, never a Hub id.

    Raises:
        ModelNotFoundError: the folder or file does not exist on this machine.
    """
    if entry.revision:
        return f"{entry.model}@{entry.revision}"
    place = recall_place(entry.recipe, entry.latent)
    if place is None and Path(entry.model).is_absolute() and Path(entry.model).exists():
        place = Path(entry.model)  # entries of an older huref have paths
    if place is None:
        raise ModelNotFoundError("its folder is not known on this machine", model=entry.model)
    return str(place)
