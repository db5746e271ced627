"""p-values of a matching of hidden units, under the null that the models are independent.

Training treats all hidden units alike, so every order of the units is equally likely in a model
that was trained from its own initialisation. The probability that matched units have the same
indices, or the same order, then follows from counting permutations, whatever the features are. The
agreement of two matchings has no such null; its rate is measured on independent models.
"""

import math
from bisect import bisect_left

import torch
from torch import Tensor

from huref.lineage.unit_matching import UnitMatching

# Units on which two matchings of independent models agree: at most 2 of 160 to 224 in the zoo,
# and once 7 of 512. Real networks hold a few units that every training finds (1 to 5 % of GPT-2's,
# arXiv 2401.12181), so the assumed rate grows with the network and is set above that.
NULL_AGREEMENTS = 2.0
NULL_AGREEMENT_SHARE = 0.05


def order_log10_p(matching: UnitMatching) -> float:
    """log10 of the exact probability of at least as many same indices by chance, at most 0.

    Under the null all n! orders of B's units are equally likely. Of k matched units of A whose
    index exists in B, the number X with a partner of the same index has factorial moments
    k!/(k-j)! (n-j)!/n!, so by inclusion and exclusion

        P(X >= t) = sum over j >= t of (-1)^(j-t) C(j-1, t-1) C(k, j) (n-j)!/n!

    whose terms fall off like 1/(j-t)!. The matching itself must not depend on indices.
    """
    t, n = matching.same_index, matching.b_size
    k = int((matching.a < n).sum())
    if t == 0:
        return 0.0
    term = 1.0  # relative to the first, which is kept as a logarithm
    total = 0.0
    for j in range(t, k + 1):
        total += term
        if j == k or abs(term) < 1e-17:
            break
        term *= -(j / (j + 1 - t)) * (k - j) / ((j + 1) * (n - j))
    first = _log_binomial(k, t) + math.lgamma(n - t + 1) - math.lgamma(n + 1)
    return min((first + math.log(total)) / math.log(10), 0.0)


def longest_increase(values: Tensor) -> int:
    """Length of the longest increasing subsequence of distinct integers, (k,)."""
    ends: list[int] = []  # the smallest value on which a subsequence of each length can end
    for value in values.tolist():
        position = bisect_left(ends, value)
        ends[position : position + 1] = [value]
    return len(ends)


def longest_increasing(values: Tensor) -> Tensor:
    """Which of some distinct integers (k,) form a longest increasing subsequence, (k,) bool."""
    ends: list[int] = []
    last: list[int] = []  # position of each end
    before: list[int] = []  # position of the previous value of the best subsequence that ends here
    for place, value in enumerate(values.tolist()):
        position = bisect_left(ends, value)
        ends[position : position + 1] = [value]
        last[position : position + 1] = [place]
        before.append(last[position - 1] if position else -1)
    chosen = torch.zeros(len(values), dtype=torch.bool)
    place = last[-1] if last else -1
    while place >= 0:
        chosen[place] = True
        place = before[place]
    return chosen


def increase_log10_p(length: int, matched: int) -> float:
    """log10 of a bound on P(longest increasing subsequence >= length) by chance, at most 0.

    For networks of different sizes, where pruning removed units and the others kept their order.
    `matched` = k pairs in random order have C(k, t) subsequences of length t, each increasing with
    probability 1/t!, so P <= C(k, t) / t!. The bound is never below the exact value.
    """
    if not 0 < length <= matched:
        return 0.0
    bound = _log_binomial(matched, length) - math.lgamma(length + 1)
    return min(bound / math.log(10), 0.0)


def agreement_log10_p(agreements: int, of: int) -> float:
    """log10 of P(X >= agreements), X Poisson with the calibrated rate. Not exact.

    Args:
        agreements: units on which two matchings agree.
        of: units of the smaller network.
    """
    rate = NULL_AGREEMENTS + NULL_AGREEMENT_SHARE * of
    if agreements <= rate:
        return 0.0
    first = agreements * math.log(rate) - rate - math.lgamma(agreements + 1)
    term, total, k = 1.0, 0.0, agreements
    while term > 1e-17:
        total += term
        k += 1
        term *= rate / k
    return min((first + math.log(total)) / math.log(10), 0.0)


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
