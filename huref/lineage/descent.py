"""Descent or a shared initialisation: two tests on what one model lacks of what the other learned.

Let learned_A be the share of A's leading directions that training gave it, and retention_A how much
of them B keeps, in units of how much B carries of the rest (`lineage.retention`). Of what A learned B
then lacks

    missing_A = (1 - retention_A) / learned_A

whose standard error is that of the retention over learned_A. It does not depend on how long or how
hot A was trained: a descendant of A lacks nothing, whatever has been trained on top of it, and a twin,
which started where A started, lacks what A learned. Two null hypotheses follow, each with a normal
distribution about a mean, whose variance is the standard error's and that between families:

    twins     both models lack what the other learned:      mean TWINS, spread TWINS_SPREAD
    descent   one of the two lacks nothing of the other's:  mean 0, spread DESCENT_SPREAD

A model that has hardly been trained has a missing part with a large error, since dividing by what it
learned divides by little: neither hypothesis is then rejected. `python -m scripts.evaluate twins`
measures the means and spreads on one family, and the tests on others (docs/measured/twins.md).
"""

import math
from collections.abc import Iterator

from huref.lineage.retention import Retention

TWINS, TWINS_SPREAD = 2.2, 0.5  # missing parts of twins: mean and spread between models
DESCENT_SPREAD = 0.15  # of the missing part of an ancestor, whose mean is 0
LEVEL = 0.001  # of both tests
LEAST_LEARNED = 1e-3  # below, what a model learned cannot be told from none


def missing_parts(retention: Retention) -> Iterator[tuple[float, float]]:
    """What B lacks of what A learned, and A of what B learned: each with its standard error.

    A model that learned nothing that can be seen gives no part.
    """
    both = (
        (retention.of_a, retention.error_of_a, retention.learned_a),
        (retention.of_b, retention.error_of_b, retention.learned_b),
    )
    for of, error, learned in both:
        if learned > LEAST_LEARNED:
            yield (1 - of) / learned, error / learned


def twins_p(retention: Retention) -> float:
    """p-value of the hypothesis that two models share an initialisation only.

    The smaller of both directions, doubled; 1 where neither model has learned anything.
    """
    smallest = min(
        (_below((part - TWINS) / math.hypot(TWINS_SPREAD, error))
         for part, error in missing_parts(retention)),
        default=1.0,
    )  # fmt: skip
    return min(1.0, 2 * smallest)


def descent_p(retention: Retention) -> float:
    """p-value of the hypothesis that one of two models descends from the other.

    The larger of both directions, since either may be the ancestor; 1 where one of them has not
    learned anything that can be seen, as such a model is as good an ancestor as the initialisation.
    """
    parts = list(missing_parts(retention))
    if len(parts) < 2:
        return 1.0
    return max(_below(-part / math.hypot(DESCENT_SPREAD, error)) for part, error in parts)


def _below(z: float) -> float:
    """Probability that a standard normal number lies below z."""
    return 0.5 * math.erfc(-z / math.sqrt(2))
