"""Rates with intervals, AUC, TPR at an FPR, and the exact tail of the order test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import kstest, rankdata

from huref.lineage.calibration import exact_interval


@dataclass(frozen=True)
class Rate:
    """k of n, with a 95 % interval of Clopper and Pearson (Biometrika 26, 1934)."""

    k: int
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end."""
        return exact_interval(self.k, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.k} of {self.n:,} (95 %: {low:.2%} to {high:.2%})"


def auc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Probability that a positive scores above a negative, ties count half; NaN without either."""
    if not positives or not negatives:
        return math.nan
    ranks = rankdata([*positives, *negatives])[: len(positives)]
    n = len(positives)
    return float((ranks.sum() - n * (n + 1) / 2) / (n * len(negatives)))


def tpr_at_fpr(positives: Sequence[float], negatives: Sequence[float], fpr: float) -> float:
    """Share of positives above a threshold that at most a share `fpr` of negatives exceeds."""
    threshold = sorted(negatives, reverse=True)[math.floor(fpr * len(negatives))]
    return float(np.mean([score > threshold for score in positives]))


def kept_tail(matched: int, size: int, kept: int) -> float:
    """P(at least `kept` of `matched` chosen indices are fixed points of a random permutation).

    Args:
        matched: k, the number of chosen indices.
        size: n, the size of the permutation.
        kept: t, the number of fixed points.

    By the factorial moments E[C(X, j)] = C(k, j) (n-j)!/n! and Jordan's formula
    P(X >= t) = sum over j >= t of (-1)^(j-t) C(j-1, t-1) E[C(X, j)].
    """
    if kept <= 0:
        return 1.0
    moment = math.prod((matched - i) / ((size - i) * (i + 1)) for i in range(kept))
    total, sign_and_choices = 0.0, 1.0
    for j in range(kept, matched + 1):
        total += sign_and_choices * moment
        if moment * abs(sign_and_choices) < 1e-18:
            break
        moment *= (matched - j) / ((size - j) * (j + 1))
        sign_and_choices *= -j / (j - kept + 1)
    return min(max(total, 0.0), 1.0)


def uniformity(values: Sequence[float] | np.ndarray, *, one_sided: bool) -> float:
    """p-value of a Kolmogorov-Smirnov test that p-values are uniform.

    One-sided: only p-values that are too small count against uniformity; those of a discrete or
    conservative test may be too large.
    """
    alternative = "greater" if one_sided else "two-sided"
    return float(kstest(values, "uniform", alternative=alternative).pvalue)
