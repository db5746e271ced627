"""The verdict on a pair: descends, contains parts, shared initialisation, unrelated, inconclusive.

Hidden units that correspond show that two models have the same origin. The retention then decides
(docs/maths.md, Statistics): how much of what one model learned the other retains. Where units
correspond and the retention cannot be measured, the verdict is inconclusive.

`python -m scripts.evaluate lineage` measures every threshold below on the zoo of
configs/lineage-zoo.yaml and writes docs/measured/lineage.md and configs/lineage.json:

TWIN_RETENTION, DESCENT_RETENTION: the quartiles of the gap between the larger retention of twins
    (trained independently from one initialisation) and that of relatives, after the outermost
    1 % of each is left out ("Held out"), by the recipe `static-1`; 0.945 and 0.972 by `function-1`.
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

A large retention shows descent only where the test of `lineage.descent` rejects that the two are
twins: python -m scripts.evaluate twins, docs/measured/twins.md.

Known limits. Twins that left their initialisation after a few steps differ by noise only and are
called descendants. Two siblings that were each trained for as long and as hot as their base look
like twins. An ICS near 0 alone does not exclude descent: models whose vocabulary was replaced have
one, and only their units show the relation.
"""

import math
from dataclasses import replace

from huref.lineage.correspondence import Correspondence
from huref.lineage.descent import LEAST_LEARNED, LEVEL, twins_p
from huref.lineage.evidence import Evidence, Verdict
from huref.lineage.retention import MIN_UNITS, Retention, as_percent
from huref.lineage.shares import Shares, as_share
from huref.lineage.similarity import Similarity

DESCENT_RETENTION = 0.975  # the larger retention, at least, of models from one training run
TWIN_RETENTION = 0.955  # at most, of models trained independently from one initialisation
LARGEST_RETENTION = 1.3  # a larger one comes from noise in the weights
ERRORS = 3  # standard errors between a retention and the other verdict's range; level 0.0013
LEAST_CARRIED = 0.4  # correlation of the initial parts from which a retention says anything
HALF = 0.5  # share of what a descendant computes that has a counterpart, at least
FEW = 0.2  # likewise where not all blocks were read
COPY = 0.9999  # correlation of the cosines of copies, which need no test
UNRELATED_ICS = 0.1
DESCENT_ICS = 0.8
CERTAIN_ICS = 0.95  # above the largest of twins that were hardly trained, 0.89
MOST_UNITS = 0.9  # of the units correspond
DISAGREEMENT = 0.1  # by which the correlation of cosines lies below the ICS


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
    if _terms_outweigh(similarity, units):
        return "descends", (
            f"both come from one training run: {figures}; terms and units agree as closely as only "
            "one training run makes them, and too few of the sampled units meet for a retention"
        )
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
        f"; {as_percent(retention.larger)} (standard error {100 * retention.error:.1f} %) of what "
        "one model learned is retained by the other"
    )
    if retention.larger < DESCENT_RETENTION:
        if (
            retention.larger <= TWIN_RETENTION
            and retention.larger + ERRORS * retention.error < DESCENT_RETENTION
        ):
            return "shared initialisation", f"same initialisation, trained independently: {figures}"
        return "inconclusive", (
            "same origin, but the retention is not clearly on one side of the range from "
            f"{as_percent(TWIN_RETENTION)} (shared initialisation) to "
            f"{as_percent(DESCENT_RETENTION)} (descent): {figures}"
        )
    if reason := _why_not_descent(retention):
        return "inconclusive", f"same origin, but {reason}: {figures}"
    return "descends", f"both come from one training run: {figures}"


def weigh_shares(evidence: Evidence, shares: Shares | None, whole: bool) -> Evidence:
    """The evidence with the shares, and the verdict that they leave.

    "descends" stands where at least half of what either model computes has a counterpart in the
    other; below, one contains parts of the other, also where it is not clear how those came about.
    Unread blocks may hold more counterparts, so that a small share of the blocks that were read is
    inconclusive.

    Args:
        evidence: of the pair, without shares.
        shares: None where they could not be measured.
        whole: whether all blocks of both models were read.
    """
    evidence = replace(evidence, shares=shares)
    if shares is None or evidence.verdict not in ("descends", "inconclusive"):
        return evidence
    figures = (
        f"{as_share(shares.of_a_in_b)} of what the first model computes has a counterpart in the "
        f"second, {as_share(shares.of_b_in_a)} of the second in the first"
    )
    if whole and shares.larger < HALF:
        why = (
            "one holds blocks or units of the other that are less than half of what it computes: "
            f"{figures}; {evidence.why.partition(': ')[2]}"
        )
        return replace(evidence, verdict="contains parts", why=why)
    if not whole and evidence.verdict == "descends" and shares.larger < FEW:
        why = (
            f"units correspond, but in the blocks that were read {figures}; --depth full reads "
            f"all blocks: {evidence.why.partition(': ')[2]}"
        )
        return replace(evidence, verdict="inconclusive", why=why)
    return evidence


def _why_not_descent(retention: Retention) -> str:
    """Why a large retention does not show descent; "" where it does."""
    if retention.carried >= COPY:
        return ""
    if retention.carried < LEAST_CARRIED:
        return (
            "too little is left of the initial weights to tell descent from a shared "
            f"initialisation (correlation {retention.carried:.2f}, {LEAST_CARRIED} is needed)"
        )
    if (p := twins_p(retention)) > LEVEL:
        learned = max(retention.learned_a, retention.learned_b)
        if learned < LEAST_LEARNED:
            return (
                "both have learned too little beyond their initial weights to tell descent from a "
                f"shared initialisation ({as_percent(learned)} of their leading directions)"
            )
        return (
            "two that share an initialisation only can lack as little of what the other learned "
            f"(p = {_power(math.log10(max(p, 1e-99)))}, {LEVEL} is needed)"
        )
    if retention.larger - ERRORS * retention.error <= TWIN_RETENTION:
        return (
            f"the retention is not {ERRORS} standard errors above {as_percent(TWIN_RETENTION)}, "
            "which a shared initialisation reaches"
        )
    return ""


def _terms_outweigh(similarity: Similarity, units: Correspondence) -> bool:
    """Whether terms and units show one training run and the cosines of units contradict them.

    Cosines of sampled units are the weaker evidence: permuted units no longer meet in the samples,
    and dimensions that are read and never written swamp them. Training lowers terms and cosines
    together, so cosines that lie far below the terms were not lowered by training.
    """
    if similarity.ics is None or similarity.ics < CERTAIN_ICS:
        return False
    if units.units.matched < MOST_UNITS * units.units.of:
        return False
    return units.retention is None or units.retention.carried < similarity.ics - DISAGREEMENT


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
