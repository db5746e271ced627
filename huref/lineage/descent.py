"""A test of the hypothesis that two models share an initialisation and nothing that they learned.

Of A's leading directions training gave it the share learned_A, and B keeps the share retention_A
of them, in units of how much B carries of the rest (`lineage.retention`). A descendant of A lacks
nothing of what A learned, whatever was trained on top: its deficit 1 - retention_A is 0. A twin,
which began where A began, lacks what A learned, and its deficit is proportional to it, however
long, however hot and with whichever optimiser either was trained: TWINS learned_A, with a spread
of SPREAD learned_A between models. So if two models are twins,

    z_A = (TWINS learned_A - deficit_A) / sqrt(error_A^2 + (SPREAD learned_A)^2 + (TWINS ERROR)^2)

is about standard normal or below, and large for descendants. It needs both that something was
learned and that it is still there: a model that hardly left its initialisation is as good an
ancestor of its twins as the initialisation itself, and is left out below LEAST_LEARNED. The first
direction is left out too, since every training from one initialisation finds it. The smaller of
both p-values, doubled, is that of the pair.

Without a gate all trainings from one initialisation find more than the first direction. Twins of
GPT-2 that were trained long and hot then lack nothing of each other's, and what is carried of the
rest falls faster: the deficit is below 0. So there a deficit below -EXCESS says nothing where less
than LEAST_CARRIED of the rest is carried.

TWINS is above 1 because directions that training strengthened also hold an initial part, which they
lack as well. The constants were chosen on two families of configs/twins-zoo.yaml, EXCESS and
LEAST_CARRIED on gpt2/8 as well; `python -m scripts.evaluate twins` measures the test on others
(docs/measured/twins.md).
"""

import math
from collections.abc import Iterator

from huref.lineage.retention import GATED, Retention

TWINS = 2.4  # deficit of a twin, in units of what was learned: mean over pairs
SPREAD = 0.5  # standard deviation of the same between pairs
ERROR = 0.006  # standard error of what was learned, by the spectrum of random vectors
LEAST_LEARNED = 0.03  # of the leading directions; a model that learned less decides nothing
EXCESS = 0.05  # by which a retention exceeds 1, without a gate
LEAST_CARRIED = 0.75  # descendants of the families that it was chosen on carry 0.82, twins 0.69
LEVEL = 0.001  # of the test


def missing_parts(retention: Retention) -> Iterator[tuple[float, float, float]]:
    """For A, then B: what it learned, how much of that the other lacks, and the standard error."""
    yield retention.learned_a, 1 - retention.further_a, retention.error_of_further_a
    yield retention.learned_b, 1 - retention.further_b, retention.error_of_further_b


def twins_p(retention: Retention) -> float:
    """p-value of the hypothesis that two models share an initialisation only.

    1 where neither has learned enough to be told from its initialisation, or where the retention of
    networks without a gate says nothing.
    """
    excess = max(retention.further_a, retention.further_b) - 1
    if retention.roles < GATED and retention.carried < LEAST_CARRIED and excess > EXCESS:
        return 1.0
    scores = [score(*part) for part in missing_parts(retention) if part[0] >= LEAST_LEARNED]
    if not scores:
        return 1.0
    return min(1.0, math.erfc(max(scores) / math.sqrt(2)))  # twice the upper tail


def score(learned: float, deficit: float, error: float) -> float:
    """The z of one direction: near standard normal or below for twins, large for descendants.

    Args:
        learned: the share of the leading directions that one model learned.
        deficit: the share of them that the other lacks.
        error: standard error of the deficit.
    """
    spread = math.hypot(error, SPREAD * learned, TWINS * ERROR)
    return (TWINS * learned - deficit) / spread
