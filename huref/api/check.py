"""`huref.check`: the origin that a model declares, compared with its weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huref.api.open import kind_of_file, open_record
from huref.api.public import public_path
from huref.errors import HurefError, one_line
from huref.escape import terminal, to_json
from huref.files import as_path
from huref.lineage.table import Pair, build_table
from huref.loader.checkpoint import open_checkpoint
from huref.loader.declarations import Declaration, read_declarations
from huref.loader.model_name import open_repository
from huref.loader.sources.adapters import CONFIG as ADAPTER_CONFIG
from huref.loader.sources.adapters import AdapterModel
from huref.progress import track

Status = Literal["confirmed", "contradicted", "undecided", "unreachable"]
Answer = Literal["confirmed", "contradicted", "undecided", "unreachable", "nothing declared"]
WORST_FIRST: tuple[Status, ...] = ("contradicted", "unreachable", "undecided", "confirmed")
GIVEN = "--base"  # the source of a base that the user gave

CLOSING: dict[Answer, str] = {
    "confirmed": "The weights agree with what is declared.",
    "contradicted": "The weights contradict what is declared.",
    "undecided": "The weights neither confirm nor contradict what is declared.",
    "unreachable": "Not every declared base could be measured.",
    "nothing declared": "No base is declared; see 'huref identify', or give a --base.",
}
ON_ITS_BASE = (
    "The adapter fits the base that it names. It is measured on top of it, so that its weights can "
    "neither confirm nor contradict the claim."
)


@dataclass(frozen=True)
class Finding:
    """One declared base and its measurement.

    Attributes:
        declaration: of the base.
        status: what the measurement says of it.
        why: the reason.
        pair: (model, base), or None if unmeasured.
        is_on_base: whether the model is an adapter that was measured on top of this very base.
        files: what was read of the model and of the base, where they were measured.
    """

    declaration: Declaration
    status: Status
    why: str
    pair: Pair | None = None
    is_on_base: bool = False
    files: tuple[dict[str, Any] | None, dict[str, Any] | None] = (None, None)

    def to_json(self) -> dict[str, Any]:
        """One entry of `declared` in `check --json`."""
        one = self.declaration
        return {
            "base": one.base,
            "relation": one.relation,
            "sources": list(one.sources),
            "firm": one.firm,
            "status": self.status,
            "why": self.why,
            "measured": self.pair.to_json() if self.pair else None,
            "files": self.files[1],
        }


@dataclass(frozen=True)
class Suggestion:
    """What the model card should declare, as far as the weights support it.

    Attributes:
        bases: for the card's `base_model`; empty where nothing is supported.
        relation: for its `base_model_relation`, or None without bases.
        notes: on declared or given bases that are left out, one sentence each.
    """

    bases: tuple[str, ...]
    relation: str | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """`suggested` in `check --suggest --json`."""
        return {
            "base_model": list(self.bases),
            "base_model_relation": self.relation,
            "notes": list(self.notes),
            "yaml": str(self),
        }

    def __str__(self) -> str:
        """Lines of YAML for the card; what is left out is a comment."""
        lines = [f"# {_plain(note)}" for note in self.notes]
        if not self.bases:
            return "\n".join([*lines, "# the weights support no base among these"])
        lines.append("base_model:")
        lines += [f"- {to_json(base)}" for base in self.bases]
        return "\n".join([*lines, f"base_model_relation: {self.relation}"])


@dataclass(frozen=True)
class Check:
    """The declared bases of a model and their measurements.

    Attributes:
        model: as the user called it.
        findings: one a declared base.
        notes: on declarations that could not be read.
        files: what was read of the model; None for a picture, or where nothing was measured.
    """

    model: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    files: dict[str, Any] | None = None

    @property
    def answer(self) -> Answer:
        """The worst finding; hints (declarations that are not firm) count only if confirmed."""
        firm = [f.status for f in self.findings if f.declaration.firm]
        for status in WORST_FIRST:
            if status in firm:
                return status
        hinted = any(f.status == "confirmed" for f in self.findings)
        return "confirmed" if hinted else "nothing declared"

    def to_json(self) -> dict[str, Any]:
        """The object that `check --json` prints."""
        return {
            "model": self.model,
            "answer": self.answer,
            "declared": [finding.to_json() for finding in self.findings],
            "notes": list(self.notes),
            "files": self.files,
        }

    @property
    def closing(self) -> str:
        """The answer in a sentence."""
        firm = [one for one in self.findings if one.declaration.firm]
        if self.answer == "undecided" and all(
            one.is_on_base for one in firm if one.status == "undecided"
        ):
            return ON_ITS_BASE
        return CLOSING[self.answer]

    def __str__(self) -> str:
        lines = [_plain(self.model)]
        for finding in self.findings:
            one = finding.declaration
            kind = one.relation or ("base" if one.firm else "a hint")
            sources = ", ".join(map(_plain, one.sources))
            lines += [
                "",
                f"  declared  {_plain(one.base)}  ({_plain(kind)}; {sources})",
                f"  measured  {_measured(finding)}",
                f"  result    {finding.status}",
            ]
        if self.notes:
            lines += ["", *(f"  note      {_plain(note)}" for note in self.notes)]
        return "\n".join([*lines, "", self.closing])


def _measured(finding: Finding) -> str:
    verdict = finding.pair.evidence.verdict if finding.pair else None
    return _plain(f"{verdict}: {finding.why}" if verdict else finding.why)


def _plain(text: str) -> str:
    """Text as one line without control characters, which a terminal could obey."""
    return terminal(text)


def check(
    model: str | Path,
    bases: Sequence[str | Path] = (),
    *,
    recipe: str = "default",
    cache: bool = True,
) -> Check:
    """Compare a model with the bases that it declares, or with those that are given.

    Args:
        model: a folder, file, Hub id or adapter; with `bases` also a record.
        bases: compared instead of the declared ones.
        recipe: name of a recipe, or a YAML file.
        cache: whether stored records are used, and new ones stored.

    Raises:
        HurefError: the model itself cannot be read.
    """
    name = str(model)
    declared, notes, is_adapter = _declarations(name)
    if bases:
        notes += [
            f"{', '.join(d.sources)} declares {d.base}, which {GIVEN} replaces" for d in declared
        ]
        declared = [Declaration(str(base), (GIVEN,), str(base)) for base in bases]
    files = None
    # Errors of the model itself are raised here, before any base is opened.
    if not bases and any(one.model for one in declared):
        files = open_record(name, recipe, cache=cache).files
    elif not bases and not declared and _has_weights(name):
        files = open_checkpoint(name).describe_files()
    findings = [
        _measure(name, one, is_adapter, recipe, cache) for one in track(declared, "declared bases")
    ]
    files = files or next((one.files[0] for one in findings if one.files[0]), None)
    return Check(name, tuple(findings), tuple(notes), files)


def _has_weights(model: str) -> bool:
    path = as_path(model)
    return not path.is_file() or kind_of_file(path) == "weights"


def _declarations(model: str) -> tuple[list[Declaration], list[str], bool]:
    """Declarations, notes, and whether the model is an adapter."""
    path = as_path(model)
    if path.is_file() and (kind := kind_of_file(path)) != "weights":
        note = f"a {kind} declares nothing; give the model itself, or a base with {GIVEN}"
        return [], [note], False
    repository = open_repository(model)
    return *read_declarations(repository), AdapterModel.is_in(repository)


def _measure(model: str, one: Declaration, is_adapter: bool, recipe: str, cache: bool) -> Finding:
    if one.model is None:
        return Finding(one, "unreachable", one.why)
    given = GIVEN in one.sources
    try:
        under = one.model if is_adapter and given else ""
        record = open_record(model, recipe, base=under, cache=cache)
        base = open_record(one.model, recipe, cache=cache)
        pair = build_table([record, base]).pairs[0]
    except (HurefError, OSError) as error:
        return Finding(one, "unreachable", one_line(error))
    files = (record.files, base.files)
    status, why = _judge(pair, is_merge=one.relation == "merge")
    if is_adapter and status == "confirmed" and (given or ADAPTER_CONFIG in one.sources):
        # The adapter was applied to this very base, so agreement is no evidence.
        why = f"it fits this base and is measured on it, so that agreement is no evidence: {why}"
        return Finding(one, "undecided", why, pair, is_on_base=True, files=files)
    return Finding(one, status, why, pair, files=files)


def _judge(pair: Pair, is_merge: bool) -> tuple[Status, str]:
    """Status of the claim that `model` of the pair (model, base) descends from `base`."""
    verdict, direction = pair.evidence.verdict, pair.evidence.direction
    if verdict in ("unrelated", "shared initialisation"):
        return "contradicted", pair.why
    if verdict != "descends":
        return "undecided", pair.why
    # A merge is closer to the common ancestor than its parents, so it can look older.
    if direction is not None and direction.older == "a" and not is_merge:
        # As after training on a quantised copy: rounding makes the base look younger.
        why = f"{pair.why}; but the base looks younger than the model: {direction.why}"
        return "undecided", why
    return "confirmed", pair.why


def suggest(result: Check, *, recipe: str = "default", cache: bool = True) -> Suggestion:
    """The lines of a model card that a check's measurements support.

    Of several bases that the model descends from, a mixture's parents are named all, otherwise
    the most similar one: the others are relatives of it.

    Raises:
        HurefError: the model cannot be read any more.
    """
    found = [one for one in result.findings if one.status == "confirmed"]
    adapter = [one for one in result.findings if one.declaration.relation == "adapter"]
    notes = [
        f"{_base_name(one)}: {one.status}: {one.why}"
        for one in result.findings
        if one not in found and one not in adapter
    ]
    if adapter and not found:
        # It is applied to this base, so that the weights cannot contradict it.
        return Suggestion((_base_name(adapter[0]),), "adapter", tuple(notes))
    if not found:
        return Suggestion((), None, tuple(notes))
    names = [one.declaration.model or one.declaration.base for one in found]
    records = [open_record(name, recipe, cache=cache) for name in (result.model, *names)]
    mixed = [m for m in build_table(records).mixings if m.child == records[0].model]
    if mixed:
        parents = [one for one, name in zip(found, names, strict=True) if name in mixed[0].parents]
        left_out = [one for one in found if one not in parents]
        notes += [f"{_base_name(one)}: a relative that it was not mixed from" for one in left_out]
        return Suggestion(tuple(map(_base_name, parents)), "merge", tuple(notes))
    nearest = max(found, key=_likeness)
    notes += [f"{_base_name(one)}: a more distant relative" for one in found if one is not nearest]
    return Suggestion((_base_name(nearest),), _relation(result.model, nearest), tuple(notes))


def _likeness(finding: Finding) -> float:
    ics = finding.pair.similarity.ics if finding.pair else None
    return -1.0 if ics is None else ics


def _base_name(finding: Finding) -> str:
    return public_path(finding.declaration.base)


def _relation(model: str, finding: Finding) -> str:
    """One of the relations that the Hub knows; a merge is found before."""
    declared = finding.declaration.relation
    if declared in ("adapter", "quantized"):
        return declared
    checkpoint = open_checkpoint(model)
    if AdapterModel.is_in(checkpoint.repository):
        return "adapter"
    return "quantized" if checkpoint.config.get("quantization_config") else "finetune"
