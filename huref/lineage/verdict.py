"""From figures to one of four words: descends, shared initialisation, unrelated, inconclusive.

Matched units say that two models share an origin. Whether they share training as well is told by
how much of what one of them learned is in the other (see `lineage.retention`). The terms'
similarity (ICS) decides where units cannot be compared.

The thresholds of the retention are the quartiles of the gap between the twins and the relatives of
the larger zoo (configs/lineage-zoo.yaml), one in a hundred of each left aside;
`python -m scripts.evaluate lineage` measures the rate of errors, also with thresholds from other
families of bases than those it judges:

                                        units p    ICS          retention, the larger
    fine-tunes, LoRA, merges, pruned    < 1e-300   0.96 - 1.00  0.98 - 1.00
    long continued pretraining          < 1e-300   0.80         1.00
    trained on as long and as hot       < 1e-300   0.33 - 0.53  1.02
    longer and hotter than the first    < 1e-100   0.05 - 0.33  1.07 - 1.25
    twins from one initialisation       < 1e-300   0.25 - 0.62  0.75 - 0.95
    independent, same text and order    > 1e-2     up to 0.05   -

Records of an older huref hold no relations of units. Those are judged as they were, by how alike
barcodes are beside features (see `lineage.likeness`), or by what was inherited of the leading
directions (see `lineage.training`). Two limits: twins that left their initialisation a moment ago
differ in nothing but noise, look like one model, and are called so; siblings that were both trained
for as long and as hot as their base, apart, look like twins.
"""

import math

from huref.lineage.correspondence import Correspondence
from huref.lineage.evidence import Evidence, Verdict
from huref.lineage.retention import Retention, in_words
from huref.lineage.similarity import Similarity

DESCENT_RETENTION = 0.975  # of what one learned in the other, of shared training
LARGEST_RETENTION = 1.3  # of an ancestor in the hottest child of the larger zoo: 1.26
TWIN_RETENTION = 0.955  # and of a shared draw alone
DESCENT_RATIO = 0.91  # likeness of barcodes to correlation of features, of shared training
TWIN_RATIO = 0.89  # and of a shared draw alone
DESCENT_LIKENESS = 0.6  # of barcodes, where there are no features to compare it with
TWIN_LIKENESS = 0.45
DESCENT_INHERITED = 0.55  # of what was learned, where there are too few barcodes
TWIN_INHERITED = 0.48
UNRELATED_ICS = 0.1  # independent models of one text stay below half of this
DESCENT_ICS = 0.5  # twins that were trained for long stay below half of this


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
    retention = units.retention if units.found else None
    return Evidence(units.units, units.log10_p, units.test, verdict, why, retention=retention)


def _by_units(similarity: Similarity, units: Correspondence) -> tuple[Verdict, str]:
    common = f"{_units(units)}; {_ics(similarity)}"
    figure, twin, descent, what = _training(similarity, units)
    if figure is None:
        return "inconclusive", f"one origin, but too few units to tell which: {common}"
    said = f"{common}; {what}"
    if units.retention is not None and _is_damaged(units.retention):
        noisy = f"retention {units.retention.larger:.2f}, more than training was seen to leave"
        return (
            "inconclusive",
            f"one origin, but weights too damaged to tell which: {common}; {noisy}",
        )
    if figure >= descent:
        return "descends", f"one training lies behind both: {said}"
    if figure <= twin:
        return "shared initialisation", f"one draw, trained apart: {said}"
    return "inconclusive", f"one origin, but neither clearly descent nor not: {said}"


def _is_damaged(retention: Retention) -> bool:
    """Whether noise, not training, has most likely raised the larger retention.

    A descendant that kept all has both at 1 or above, however coarse or noisy it was made. The
    hottest child of the larger zoo exceeds the bound beside a relative that was cut: 1.32.
    """
    return retention.larger > LARGEST_RETENTION and retention.smaller < DESCENT_RETENTION


def _training(
    similarity: Similarity, units: Correspondence
) -> tuple[float | None, float, float, str]:
    """The best figure for shared training, its two thresholds, and what it is in words."""
    inherited, likeness = units.inherited, units.likeness
    if units.retention is not None:
        figure = units.retention.larger
        what = f"{in_words(figure)} of what one learned is in the other"
        return figure, TWIN_RETENTION, DESCENT_RETENTION, what
    if inherited is not None and likeness is not None:
        what = f"barcodes alike by {likeness:.2f}, features by {inherited.correlation:.2f}"
        return likeness / inherited.correlation, TWIN_RATIO, DESCENT_RATIO, what
    if likeness is not None:
        return likeness, TWIN_LIKENESS, DESCENT_LIKENESS, f"barcodes alike by {likeness:.2f}"
    if inherited is not None:
        what = f"{inherited.share:.2f} of the leading directions shared"
        return inherited.share, TWIN_INHERITED, DESCENT_INHERITED, what
    return similarity.ics, -1.0, DESCENT_ICS, "by the terms alone"


def _by_terms(similarity: Similarity, units: str) -> tuple[Verdict | None, str]:
    if similarity.ics is None:
        return None, f"{similarity.why}; {units}"
    figures = f"{_ics(similarity)}; {units}"
    if similarity.ics >= DESCENT_ICS:
        return "descends", f"the terms agree as only one training's do: {figures}"
    if similarity.ics < UNRELATED_ICS:
        return "unrelated", f"nothing in common beyond chance in the blocks read: {figures}"
    return "inconclusive", f"the terms resemble each other: {figures}"


def _ics(similarity: Similarity) -> str:
    if similarity.ics is None:
        return "no ICS"
    return f"ICS {round(similarity.ics, 2) + 0.0:.2f} on {similarity.shared_anchors} anchors"


def _units(units: Correspondence) -> str:
    count = units.units
    chance = "p < 1e-99" if units.log10_p < -99 else f"p = {_power(units.log10_p)}"
    return f"{count.matched} of {count.of} units of layer {count.layer} {units.how}, {chance}"


def _power(log10: float) -> str:
    if log10 > -3:
        return f"{10**log10:.2g}"
    return f"1e{math.floor(log10)}"
