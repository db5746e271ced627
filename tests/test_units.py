"""Matching hidden units, and the exact null of the order test."""

import itertools
import math

import pytest
import torch

from huref.lineage.units import Matching, agreement, match_units, order_log10_p


def exact_tail(k: int, n: int, t: int) -> float:
    """P(at least t of the pairs (i, i), i < k, are kept) over all n! numberings, by counting."""
    orders = list(itertools.permutations(range(n)))
    return sum(sum(o[i] == i for i in range(k)) >= t for o in orders) / len(orders)


@pytest.mark.parametrize(("k", "n"), [(5, 5), (3, 6), (6, 6), (1, 4), (7, 7)])
def test_the_order_test_is_exact(k: int, n: int) -> None:
    for t in range(k + 1):
        b = [i if i < t else (i + 1 if i + 1 < k else t) for i in range(k)]
        if t == k - 1:  # k - 1 own indices and one other is possible only if n > k
            if n == k:
                continue
            b[-1] = n - 1
        matching = Matching(torch.arange(k), torch.tensor(b), k, n)
        assert matching.kept == t
        assert 10 ** order_log10_p(matching) == pytest.approx(exact_tail(k, n, t), rel=1e-9)


def test_all_units_kept_is_one_in_n_factorial() -> None:
    everything = Matching(torch.arange(512), torch.arange(512), 512, 512)
    assert order_log10_p(everything) == pytest.approx(-math.lgamma(513) / math.log(10))


def test_p_values_of_independent_models_are_not_too_small() -> None:
    torch.manual_seed(0)
    values = [
        10 ** order_log10_p(match_units(torch.randn(60, 16), torch.randn(60, 16)))
        for _ in range(400)
    ]
    for level in (0.3, 0.1, 0.02):
        share = sum(v <= level for v in values) / len(values)
        assert share <= level + 3 * math.sqrt(level / len(values))


def test_noisy_units_find_each_other_under_permutation_and_pruning() -> None:
    torch.manual_seed(0)
    a = torch.randn(300, 48)
    order = torch.randperm(300)
    b = (a + 0.3 * torch.randn(a.shape))[order]
    matching = match_units(a, b)
    assert len(matching.a) > 290
    assert torch.equal(order[matching.b], matching.a)
    assert order_log10_p(matching) > -3
    pruned = match_units(a, a[:200] * 5)
    assert pruned.kept == pruned.of == 200
    assert order_log10_p(pruned) < -300


def test_signs_are_ignored_where_they_are_convention() -> None:
    torch.manual_seed(0)
    a = torch.randn(50, 32)
    assert match_units(a, -a, signed=False).kept == 50
    assert match_units(a, -a).kept < 10


def test_empty_units_match_nothing() -> None:
    a = torch.randn(5, 8)
    a[2] = 0
    assert 2 not in match_units(a, a).a


def test_agreement_counts_pairs_found_twice() -> None:
    torch.manual_seed(0)
    a, c = torch.randn(2, 100, 32)
    order = torch.randperm(100)
    assert agreement(match_units(a, a[order]), match_units(c, c[order])) == 100
    strangers = agreement(
        match_units(a, torch.randn(100, 32)), match_units(c, torch.randn(100, 32))
    )
    assert strangers < 8
