"""One row of the table: what every method says about a source and a copy."""

import tempfile
from pathlib import Path
from typing import Any

from huref.api.open import open_record
from huref.attacks.proof import logit_difference
from huref.errors import HurefError, one_line
from huref.invariants.extract import Depth
from huref.lineage.table import build_table
from scripts.evaluate.attacks.cases import Case, make_copy
from scripts.rivals.awm import awm_score
from scripts.rivals.intrinsic import intrinsic_score
from scripts.rivals.plain import parameter_cosine
from scripts.rivals.published import published_ics
from scripts.rivals.weights import read_weights

SETTINGS: dict[str, tuple[str, Depth]] = {
    "default": ("default", "recipe"),
    "default full": ("default", "full"),
    "static-1": ("static-1", "recipe"),
}
RIVALS = {
    "published": published_ics,
    "awm": awm_score,
    "cosine": parameter_cosine,
    "intrinsic": intrinsic_score,
}
Row = dict[str, Any]


def measure_case(case: Case) -> Row:
    """Make the copy and measure it."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = make_copy(case, Path(temporary))
        row: Row = {"case": case.name, "base": case.base.name, "dtype": case.dtype}
        row |= {"framing": case.host is not None, "kinds": list(case.kinds)}
        row["logits"] = _difference(case, copy)
        return row | measure_pair(case.base, copy)


def measure_pair(base: Path, other: Path) -> Row:
    """Verdicts and ICS of huref in each setting, and the scores of the rivals."""
    row: Row = {"huref": {}}
    for setting, (recipe, depth) in SETTINGS.items():
        row["huref"][setting] = judge(base, other, recipe, depth)
    row["rivals"] = _rivals(base, other)
    return row


def judge(base: Path, other: Path, recipe: str, depth: Depth) -> Row:
    """Verdict, ICS, cosine of latents, reason and retention of one pair."""
    try:
        records = [
            open_record(str(folder), recipe, depth=depth, cache=folder == base)
            for folder in (base, other)
        ]
        [pair] = build_table(records).pairs
    except HurefError as error:
        return {"verdict": "refused", "why": one_line(error).rpartition(": ")[2]}
    older = pair.older is not None and pair.older != str(base)
    return {
        "verdict": pair.evidence.verdict,
        "ics": pair.similarity.ics,
        "latent_cosine": pair.similarity.latent_cosine,
        "why": pair.why,
        "copy_is_older": older,
        "carried": None if (kept := pair.evidence.retention) is None else kept.carried,
        "retained": None if kept is None else [kept.of_a, kept.of_b],
    }


def _difference(case: Case, copy: Path) -> float | None:
    """Largest difference of logits from the model that the copy computes, in deviations."""
    try:
        return logit_difference(case.host or case.base, copy, case.kinds)
    except HurefError:
        return None


def _rivals(base: Path, other: Path) -> Row:
    try:
        weights = [read_weights(str(folder)) for folder in (base, other)]
    except (HurefError, TypeError):
        return dict.fromkeys(RIVALS)
    scores: Row = {}
    for name, score in RIVALS.items():
        try:
            scores[name] = round(float(score(*weights)), 4)
        except (HurefError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            scores[name] = None  # the method has no answer for such a pair of shapes
    return scores
