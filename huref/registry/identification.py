"""The answer of `huref identify`: candidates, what was found out about each, and the chosen one."""

from base64 import b64encode
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from markupsafe import escape

from huref.api.fingerprint import render
from huref.decoder.picture import as_png, contact_sheet
from huref.escape import printable, terminal
from huref.invariants.record import Record
from huref.lineage.evidence import Evidence, Mixing
from huref.lineage.signs import signs_of
from huref.lineage.similarity import Similarity
from huref.registry.entry import Entry
from huref.registry.signing import signer_id
from huref.registry.store import SearchResult

Answer = Literal["descends", "contains parts", "shared initialisation", "inconclusive", "none"]
SHOWN = 3  # candidates in a picture, however low they score
# Verdicts that are an answer, the strongest first.
ANSWERS: tuple[Answer, ...] = (
    "descends",
    "contains parts",
    "shared initialisation",
    "inconclusive",
)


@dataclass(frozen=True)
class Candidate:
    """A known base that the model may come from.

    Attributes:
        match: the registry's search result.
        log10_stranger: log10 of the probability that an unrelated model scores as high, given the
            number of bases searched.
        similarity: of the full terms; its ICS is None if the base's weights were not read.
        evidence: its verdict is None if the score is one that unrelated models reach.
        is_same: whether nothing that was read of the model differs from it.
    """

    match: SearchResult
    log10_stranger: float
    similarity: Similarity
    evidence: Evidence

    is_same: bool = False

    @property
    def model(self) -> str:
        """The base's name."""
        return self.match.entry.model

    def to_json(self) -> dict[str, Any]:
        """The candidate in the output of `huref identify --json`."""
        return {
            "model": self.model,
            "revision": self.match.entry.revision,
            "measured_at": self.match.entry.measured_at,
            "signer": signer_id(self.match.entry),
            "sketch_ics": self.match.ics,
            "latent_cosine": self.match.latent_cosine,
            "log10_stranger": self.log10_stranger,
            "ics": self.similarity.ics,
            "log10_p": self.evidence.log10_p,
            "verdict": self.evidence.verdict,
            "same": self.is_same,
            "why": self.evidence.why,
        }


@dataclass(frozen=True, repr=False)
class Identification:
    """The answer and the candidates from which it was chosen.

    Attributes:
        record: the model to identify.
        answer: the relation to `base`; "inconclusive" if the two are related and it is not clear
            how, or if no base was found and the model shows signs of disguise.
        base: the chosen candidate's name, or None if no base was found.
        of: number of bases searched.
        candidates: best first, at least three if the registry has that many.
        mixing: the registered models that it was merged from, or None.
    """

    record: Record
    answer: Answer
    base: str | None
    of: int
    candidates: tuple[Candidate, ...]
    mixing: Mixing | None = None

    def __repr__(self) -> str:
        return f"<Identification: {terminal(self.record.model)} {terminal(self.sentence)}>"

    def _repr_png_(self) -> bytes:
        return as_png(self.draw())

    def _repr_html_(self) -> str:
        uri = b64encode(self._repr_png_()).decode("ascii")
        said = escape(printable(f"{_short(self.record.model)}: {self.sentence}"))
        why = escape(printable(self.chosen.evidence.why)) if self.chosen else ""
        return (
            f"<p><b>{said}</b><br>{why}</p>"
            f'<img alt="The model beside its nearest bases" src="data:image/png;base64,{uri}">'
        )

    @property
    def sentence(self) -> str:
        """The answer in words."""
        if self.base is None and self.answer == "inconclusive":
            signs = ", ".join(signs_of(self.record))
            return (
                f"none of {self.of} known bases was found, but there are signs of disguise: {signs}"
            )
        if self.base is None:
            return f"none of {self.of} known bases"
        if self.chosen is not None and self.chosen.is_same:
            return f"is {self.base} itself, or differs from it in nothing that was read"
        if self.mixing is not None:
            return f"is a merge of {_tell_parents(self.mixing)}"
        direction = self.chosen.evidence.direction if self.chosen else None
        if self.answer == "descends" and direction is not None and direction.older == "a":
            return f"comes from the same training run as {self.base}, from an earlier state of it"
        sentences = {
            "descends": f"descends from {self.base}",
            "contains parts": f"contains parts of {self.base}, or {self.base} of it",
            "shared initialisation": f"shares an initialisation with {self.base}",
            "inconclusive": f"is related to {self.base}, but it is not clear how",
        }
        return sentences[self.answer]

    @property
    def _why(self) -> str:
        if self.base is None and self.answer == "inconclusive":
            return self.sentence
        if self.mixing is not None:
            return self.mixing.why
        return self.chosen.evidence.why if self.chosen else "the registry has no bases"

    @property
    def chosen(self) -> Candidate | None:
        """The candidate of the answer, else the most similar one; None if there is none."""
        named = [c for c in self.candidates if c.model == self.base]
        return next(iter([*named, *self.candidates]), None)

    def to_json(self) -> dict[str, Any]:
        """The output of `huref identify --json`."""
        chosen = self.chosen
        return {
            "model": self.record.model,
            "picture": asdict(self.record.seal) if self.record.seal else None,
            "files": self.record.files,
            "answer": self.answer,
            "base": self.base,
            "of": self.of,
            "log10_stranger": chosen.log10_stranger if chosen else None,
            "why": self._why,
            "signs": list(signs_of(self.record)),
            "mixing": None if self.mixing is None else self.mixing.to_json(),
            "candidates": [candidate.to_json() for candidate in self.candidates],
        }

    def draw(self, recipe: str = "default") -> np.ndarray:
        """The model beside its three nearest candidates, one picture (height, width, 3) uint8."""
        nearest = self.candidates[:SHOWN]
        records = [self.record, *(_as_record(c.match.entry, self.record) for c in nearest)]
        pictures = [render(r, recipe=recipe, redraw=True) for r in records]
        captions = [f"{_short(self.record.model)}\n{self.answer}"]
        for candidate in nearest:
            match = candidate.match
            score = f"z {match.latent_cosine:.2f}" if match.ics is None else f"{match.ics:.2f}"
            verdict = candidate.evidence.verdict or "no evidence"
            captions.append(f"{_short(candidate.model)}\n{score}  {verdict}")
        return contact_sheet(pictures, captions, len(records))


def _tell_parents(mixing: Mixing) -> str:
    """The parents of a merge with their shares."""
    shares = mixing.shares or (None,) * len(mixing.parents)
    named = [
        parent if share is None else f"{parent} ({share:.2f})"
        for parent, share in zip(mixing.parents, shares, strict=True)
    ]
    return f"{', '.join(named[:-1])} and {named[-1]}"


def _as_record(entry: Entry, like: Record) -> Record:
    """An entry as a record with a latent only, which is enough to draw it."""
    return Record(entry.model, entry.revision, like.recipe, None, None, None, entry.latent)


def _short(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2]
