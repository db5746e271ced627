"""From figures to one of four words: descends, shared initialisation, unrelated, inconclusive.

Matched units say that two models share an origin. Whether they share training as well is told by
what they inherited of the leading directions (see `lineage.training`). The terms' similarity
(ICS) decides where units cannot be compared.

Every threshold lies in a gap that was measured (the shipped zoo, and llama-a trained on as long
and as hot as the first time):

                                          units p     inherited      ICS
    fine-tunes, LoRA, merges, pruned      < 1e-300    0.95 to 0.99   0.90 to 0.99
    long continued pretraining            < 1e-300    0.80           0.80
    trained on as long and as hot         < 1e-300    0.65           0.39
    twins from one initialisation         < 1e-270    0.39 to 0.42   0.11 to 0.25
    independent, same text and order      > 1e-2      -              up to 0.05
"""

import math

from huref.lineage.correspondence import Correspondence
from huref.lineage.evidence import Evidence, Verdict
from huref.lineage.similarity import Similarity

DESCENT_INHERITED = 0.55  # from here on units share training
TWIN_INHERITED = 0.48  # up to here they only share the initial draw
UNRELATED_ICS = 0.1  # independent models of one text stay below half of this
DESCENT_ICS = 0.5  # twins stay below half of this


def judge(similarity: Similarity, units: Correspondence | None, missing: str = "") -> Evidence:
    """The evidence of a pair and the verdict that follows from it.

    Args:
        similarity: of the terms.
        units: of the hidden units, or None where they could not be compared.
        missing: why they could not.
    """
    if units is None:
        verdict, why = _by_terms(similarity, missing or "the units were not compared")
        return Evidence(verdict=verdict, why=why)
    if units.found:
        verdict, why = _by_units(similarity, units)
    else:
        verdict, why = _by_terms(similarity, f"units do not correspond ({_units(units)})")
    return Evidence(units.units, units.log10_p, units.test, verdict, why)


def _by_units(similarity: Similarity, units: Correspondence) -> tuple[Verdict, str]:
    common, inherited = f"{_units(units)}; {_ics(similarity)}", units.inherited
    if inherited is None:
        if similarity.ics is not None and similarity.ics >= DESCENT_ICS:
            return "descends", f"one training lies behind both: {common}"
        return "inconclusive", f"one origin, but too few units to tell which: {common}"
    share = f"they share {inherited:.2f} of what training wrote into them"
    if inherited >= DESCENT_INHERITED:
        return "descends", f"one training lies behind both: {common}; {share}"
    if inherited <= TWIN_INHERITED:
        return "shared initialisation", f"one draw, trained apart: {common}; only {share[5:]}"
    return (
        "inconclusive",
        f"one origin, between descent and shared initialisation: {common}; {share}",
    )


def _by_terms(similarity: Similarity, units: str) -> tuple[Verdict | None, str]:
    if similarity.ics is None:
        return None, f"{similarity.why}; {units}"
    figures = f"{_ics(similarity)}; {units}"
    if similarity.ics >= DESCENT_ICS:
        return "descends", f"the terms agree as only one training's do: {figures}"
    if similarity.ics < UNRELATED_ICS:
        return "unrelated", f"nothing in common beyond chance: {figures}"
    return "inconclusive", f"the terms resemble each other: {figures}"


def _ics(similarity: Similarity) -> str:
    if similarity.ics is None:
        return "no ICS"
    return f"ICS {similarity.ics + 0.0:.2f} on {similarity.shared_anchors} anchors"


def _units(units: Correspondence) -> str:
    count = units.units
    chance = "p < 1e-99" if units.log10_p < -99 else f"p = {_power(units.log10_p)}"
    return f"{count.matched} of {count.of} units of layer {count.layer} {units.how}, {chance}"


def _power(log10: float) -> str:
    if log10 > -3:
        return f"{10**log10:.2g}"
    return f"1e{math.floor(log10)}"
