"""The verdict on a pair: descends, shared initialisation, unrelated or inconclusive.

Hidden units that correspond show that two models have the same origin. The retention then decides
(docs/maths.md, Statistics): how much of what one model learned the other retains. Where units
correspond and the retention cannot be measured, the verdict is inconclusive.

`python -m scripts.evaluate lineage` measures every threshold below on the zoo of
configs/lineage-zoo.yaml and writes docs/measured/lineage.md and configs/lineage.json:

TWIN_RETENTION, DESCENT_RETENTION: the quartiles of the gap between the larger retention of twins
    (trained independently from one initialisation) and that of relatives, after the outermost
    1 % of each is left out ("Held out").
LARGEST_RETENTION: above the largest retention of an undamaged relative, 1.26.
UNRELATED_ICS: above the largest ICS of 888 independent pairs, 0.011 ("Calibration").
DESCENT_ICS: above the largest ICS of twins, 0.616 ("By what was done"). Needed only for pairs whose
    units were not compared: in large tables, and against the sketches or latents of a registry.

Figures of that zoo:

                                        units p    ICS          retention, the larger
    fine-tunes, LoRA, merges, pruned    < 1e-300   0.96 - 1.00  0.98 - 1.00
    long continued pretraining          < 1e-300   0.80         1.00
    as long and as hot as the base      < 1e-300   0.33 - 0.53  1.02
    longer and hotter than the base     < 1e-100   0.05 - 0.33  1.07 - 1.25
    twins from one initialisation       < 1e-300   0.25 - 0.62  0.75 - 0.95
    independent, same text and order    > 1e-2     up to 0.05   -

Known limits. Twins that left their initialisation after a few steps differ by noise only and are
called descendants. Two siblings that were each trained for as long and as hot as their base look
like twins. An ICS near 0 alone does not exclude descent: models whose vocabulary was replaced have
one, and only their units show the relation.
"""

import math

from huref.lineage.correspondence import Correspondence
from huref.lineage.evidence import Evidence, Verdict
from huref.lineage.retention import MIN_UNITS, Retention, as_percent
from huref.lineage.similarity import Similarity

DESCENT_RETENTION = 0.975  # the larger retention, at least, of models from one training run
TWIN_RETENTION = 0.955  # at most, of models trained independently from one initialisation
LARGEST_RETENTION = 1.3  # a larger one comes from noise in the weights
UNRELATED_ICS = 0.1
DESCENT_ICS = 0.8


def judge(similarity: Similarity, units: Correspondence | None, not_compared: str = "") -> Evidence:
    """The evidence of a pair and the verdict that follows from it.

    Args:
        similarity: of the terms.
        units: the test of the hidden units, or None where they were not compared.
        not_compared: why they were not.
    """
    if units is None:
        verdict, why = _by_terms(similarity, not_compared or "hidden units were not compared")
        return Evidence(verdict=verdict, why=why)
    if not units.found:
        verdict, why = _without_matches(similarity, units)
        return Evidence(units.units, units.log10_p, units.test, verdict, why)
    verdict, why = _by_retention(similarity, units)
    return Evidence(units.units, units.log10_p, units.test, verdict, why, retention=units.retention)


def _by_retention(similarity: Similarity, units: Correspondence) -> tuple[Verdict, str]:
    """The verdict on two models of the same origin."""
    figures = f"{_count(units, ' hidden units of')}; {_ics(similarity)}"
    retention = units.retention
    if retention is None:
        return "inconclusive", (
            "same origin, but only the retention separates descent from a shared initialisation: "
            f"{figures}; the retention needs {MIN_UNITS} corresponding units in both samples"
        )
    if _is_damaged(retention):
        return "inconclusive", (
            "same origin, but the weights are too damaged to tell descent from a shared "
            f"initialisation: {figures}; a retention of {retention.larger:.2f} is larger than "
            "training gives"
        )
    figures += (
        f"; {as_percent(retention.larger)} of what one model learned is retained by the other"
    )
    if retention.larger >= DESCENT_RETENTION:
        return "descends", f"both come from one training run: {figures}"
    if retention.larger <= TWIN_RETENTION:
        return "shared initialisation", f"same initialisation, trained independently: {figures}"
    return "inconclusive", (
        f"same origin, but the retention lies between {as_percent(TWIN_RETENTION)} (shared "
        f"initialisation) and {as_percent(DESCENT_RETENTION)} (descent): {figures}"
    )


def _is_damaged(retention: Retention) -> bool:
    """Whether noise in the weights, not training, has most likely raised the larger retention.

    A descendant that kept everything has both retentions at 1 or above, however coarse or noisy its
    weights are. One pair of relatives is wrongly called damaged: the hottest child of the zoo
    beside a pruned relative, 1.32.
    """
    return retention.larger > LARGEST_RETENTION and retention.smaller < DESCENT_RETENTION


def _without_matches(similarity: Similarity, units: Correspondence) -> tuple[Verdict | None, str]:
    """The verdict where the test of the hidden units found nothing."""
    reason = f"hidden units do not correspond ({_count(units, ' in')})"
    if similarity.ics is None:
        return None, f"{similarity.why}; {reason}"
    figures = f"{_ics(similarity)}; {reason}"
    if similarity.ics < UNRELATED_ICS:
        return "unrelated", f"no similarity beyond chance in the compared blocks: {figures}"
    return "inconclusive", f"the terms are similar, but the hidden units are not: {figures}"


def _by_terms(similarity: Similarity, reason: str) -> tuple[Verdict | None, str]:
    """The verdict where hidden units were not compared."""
    if similarity.ics is None:
        return None, f"{similarity.why}; {reason}"
    figures = f"{_ics(similarity)}; {reason}"
    if similarity.ics >= DESCENT_ICS:
        return (
            "descends",
            f"the terms are as similar as only one training run makes them: {figures}",
        )
    if similarity.ics < UNRELATED_ICS:
        return "unrelated", f"no similarity beyond chance in the compared blocks: {figures}"
    return "inconclusive", (
        f"the terms are similar, but do not tell descent from a shared initialisation: {figures}"
    )


def _ics(similarity: Similarity) -> str:
    if similarity.ics is None:
        return "no ICS"
    figure = f"ICS {round(similarity.ics, 2) + 0.0:.2f}"
    anchors = similarity.shared_anchors
    return figure if anchors is None else f"{figure} on {anchors} anchors"


def _count(units: Correspondence, words: str) -> str:
    """The count with its p-value, and these words before the block."""
    count = units.units
    p = "p < 1e-99" if units.log10_p < -99 else f"p = {_power(units.log10_p)}"
    return f"{count.matched} of {count.of}{words} block {count.layer} {units.how}, {p}"


def _power(log10: float) -> str:
    if log10 > -3:
        return f"{10**log10:.2g}"
    return f"1e{math.floor(log10)}"
