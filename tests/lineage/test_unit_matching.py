"""UnitMatching hidden units, and the exact null of the order test."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from huref.api.open import open_record
from huref.invariants.barcodes import NUMBERS, Barcodes
from huref.invariants.record import Record
from huref.invariants.unit_features import UnitFeatures
from huref.lineage.correspondence import compare_units
from huref.lineage.order import (
    agreement_log10_p,
    increase_log10_p,
    longest_increase,
    order_log10_p,
)
from huref.lineage.unit_matching import (
    UnitMatching,
    agreement,
    match_networks,
    match_twice,
    match_units,
)
from tests.support.zoo import ZOO


def exact_tail(k: int, n: int, t: int) -> float:
    """P(at least t of the indices i < k are fixed points) over all n! permutations, by counting."""
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
        matching = UnitMatching(torch.arange(k), torch.tensor(b), k, n)
        assert matching.same_index == t
        assert 10 ** order_log10_p(matching) == pytest.approx(exact_tail(k, n, t), rel=1e-9)


def test_all_indices_the_same_has_probability_one_in_n_factorial() -> None:
    everything = UnitMatching(torch.arange(512), torch.arange(512), 512, 512)
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
    assert pruned.same_index == pruned.of == 200
    assert order_log10_p(pruned) < -300


def test_arbitrary_signs_are_ignored() -> None:
    torch.manual_seed(0)
    a = torch.randn(50, 32)
    assert match_units(a, -a, signed=False).same_index == 50
    assert match_units(a, -a).same_index < 10


def test_zero_units_are_not_matched() -> None:
    a = torch.randn(5, 8)
    a[2] = 0
    assert 2 not in match_units(a, a).a


def test_agreement_counts_pairs_in_both_matchings() -> None:
    torch.manual_seed(0)
    a, c = torch.randn(2, 100, 32)
    order = torch.randperm(100)
    assert agreement(match_units(a, a[order]), match_units(c, c[order])) == 100
    strangers = agreement(
        match_units(a, torch.randn(100, 32)), match_units(c, torch.randn(100, 32))
    )
    assert strangers < 8


def permuted_networks(units: int, noise: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A network's features, a noisy copy in another order with other signs, and that order."""
    a = torch.randn(units, 3, 32)
    order = torch.randperm(units)
    signs = torch.tensor([1.0, -1.0])[torch.randint(0, 2, (units,))]
    b = (a + noise * torch.randn(a.shape))[order]
    b[:, 1:] *= signs[:, None, None]
    return a, b, order


def test_networks_match_through_permutations_and_signs() -> None:
    torch.manual_seed(0)
    a, b, order = permuted_networks(200, 0.3)
    matching = match_networks(a, b)
    assert len(matching.a) > 195
    assert torch.equal(order[matching.b], matching.a)
    assert agreement(*match_twice(a, b)) > 190


def test_ungated_networks_match_by_what_they_read_and_write() -> None:
    torch.manual_seed(0)
    a, b, order = permuted_networks(100, 0.2)
    a[:, 0] = b[:, 0] = 0
    matching = match_networks(a, b)
    assert torch.equal(order[matching.b], matching.a)
    assert agreement(*match_twice(a, b)) > 95


def test_the_longest_increase_equals_brute_force() -> None:
    for values in itertools.permutations(range(6)):
        brute = max(
            size
            for size in range(1, 7)
            for chosen in itertools.combinations(values, size)
            if list(chosen) == sorted(chosen)
        )
        assert longest_increase(torch.tensor(values)) == brute


@pytest.mark.parametrize("k", [3, 5, 7])
def test_the_bound_on_increases_is_never_below_the_exact_tail(k: int) -> None:
    lengths = [longest_increase(torch.tensor(o)) for o in itertools.permutations(range(k))]
    for t in range(1, k + 1):
        exact = sum(length >= t for length in lengths) / len(lengths)
        assert 10 ** increase_log10_p(t, k) >= exact * (1 - 1e-9)
    assert 10 ** increase_log10_p(k, k) == pytest.approx(1 / math.factorial(k))


def test_width_pruning_keeps_the_order() -> None:
    torch.manual_seed(0)
    a = torch.randn(300, 3, 32)
    kept = torch.randperm(300)[:180].sort().values
    matching = match_networks(a, a[kept] + 0.3 * torch.randn(180, 3, 32))
    assert increase_log10_p(longest_increase(matching.b), len(matching.b)) < -100
    strangers = match_networks(a, torch.randn(180, 3, 32))
    assert increase_log10_p(longest_increase(strangers.b), len(strangers.b)) > -2


def test_agreement_p_is_the_poisson_tail() -> None:
    assert agreement_log10_p(5, 192) == 0.0
    rate = 2 + 0.05 * 100
    exact = 1 - sum(math.exp(-rate) * rate**k / math.factorial(k) for k in range(20))
    assert 10 ** agreement_log10_p(20, 100) == pytest.approx(exact, rel=1e-9)
    assert agreement_log10_p(150, 192) < -90


def test_units_of_a_large_network_are_sampled() -> None:
    """At the size of real models: 11,008 units, of which about a thousand are matched."""
    torch.manual_seed(0)
    base = open_record(str(ZOO / "llama-b"), cache=True)
    features = torch.randn(11008, 3, 64).half()
    codes = torch.randn(128, NUMBERS).half()

    def large(features: torch.Tensor, codes: torch.Tensor) -> Record:
        networks = torch.tensor([[1, -1, 11008]], dtype=torch.int32)
        units = UnitFeatures(features, torch.ones(1, 3), networks)
        coded = torch.tensor([[1, -1, 11008, 128]], dtype=torch.int32)
        return replace(base, layers=(1,), units=units, barcodes=Barcodes(codes, coded))

    noisy = (features.float() + 0.5 * torch.randn(features.shape)).half()
    child = large(noisy, (codes.float() + 0.2 * torch.randn(codes.shape)).half())
    found = compare_units(large(features, codes), child)
    assert found is not None
    assert found.test == "order"
    assert found.units.matched > 0.95 * found.units.of > 1000
    assert found.log10_p < -2000
    order = torch.randperm(11008)
    permuted = compare_units(large(features, codes), large(noisy[order], codes))
    assert permuted is not None
    assert permuted.test == "agreement"
    assert permuted.found
