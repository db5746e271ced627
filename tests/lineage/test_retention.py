"""Retention: what models learned, apart from their common initialisation, on synthetic models."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from huref.architecture.block import FeedForward
from huref.invariants.barcodes import UnitVectors
from huref.invariants.relations import Relations, measure_relations
from huref.lineage.retention import Retention, as_percent, mean_retention, measure_retention
from huref.lineage.unit_matching import UnitMatching

WIDTH, HIDDEN = 64, 192
ALL = torch.arange(HIDDEN)
Matrices = Sequence[Tensor]  # gate, up and down, each (units, width)


def initialise() -> list[Tensor]:
    return [torch.randn(HIDDEN, WIDTH) for _ in range(3)]


def learn(weights: Matrices, strength: float = 0.7, noise: float = 0.1) -> list[Tensor]:
    """Simulated training: a few strong random directions, and weak noise on all weights."""
    rank = 4
    return [
        W
        + strength * torch.randn(HIDDEN, rank) @ torch.randn(rank, WIDTH) / 2
        + noise * torch.randn(HIDDEN, WIDTH)
        for W in weights
    ]


def relations_of(weights: Matrices, layer: int = 1) -> Relations:
    gate, up, down = weights
    sample = UnitVectors(FeedForward(up.T, gate.T, down), -1, whole=True).sample
    networks = torch.tensor([[layer, -1, HIDDEN, 3]], dtype=torch.int32)
    return Relations(measure_relations(sample), networks, torch.arange(int(networks[0, 2])).int())


def retention(a: Matrices, b: Matrices, matching: UnitMatching | None = None) -> Retention:
    same = matching or UnitMatching.identity(ALL, HIDDEN, HIDDEN)
    found = measure_retention(relations_of(a), relations_of(b), ((1, -1), (1, -1)), same)
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_relations_are_cosines() -> None:
    weights = initialise()
    relations = relations_of(weights)
    assert relations.fits()
    full = relations.of_network(0)
    assert full.shape == (3, HIDDEN, 3, HIDDEN)
    expected = torch.nn.functional.cosine_similarity(weights[0][5], weights[2][7], dim=0)
    assert float(full[0, 5, 2, 7]) == pytest.approx(float(expected), abs=1e-3)
    assert torch.equal(full, full.permute(2, 3, 0, 1))
    assert float(full[1, 9, 1, 9]) == 0


def test_a_descendant_retains_what_its_ancestor_learned() -> None:
    parent = learn(initialise())
    for strength in (0.7, 1.0, 1.5):
        found = retention(parent, learn(parent, strength))
        assert found.of_a == pytest.approx(1, abs=0.06), strength
        assert found.of_b < found.of_a - 0.02, strength
        assert found.larger == found.of_a


def test_twins_retain_less_of_what_the_other_learned() -> None:
    start = initialise()
    found = retention(learn(start), learn(start))
    assert found.carried > 0.3
    assert found.larger < 0.9
    assert found.of_a == pytest.approx(found.of_b, abs=0.1)


def test_basis_scale_sign_and_order_do_not_change_the_retention() -> None:
    parent = learn(initialise())
    child = learn(parent)
    plain = retention(parent, child)
    R = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0]
    s = torch.rand(HIDDEN, 1) + 0.5
    sign = torch.where(torch.rand(HIDDEN, 1) < 0.5, -1.0, 1.0)
    gate, up, down = child
    order = torch.randperm(HIDDEN)
    hidden = [(W @ R)[order] for W in (gate * s, sign * up * s, sign * down / s)]
    partner = order.argsort()
    found = retention(parent, hidden, UnitMatching(ALL, partner, HIDDEN, HIDDEN))
    for expected, value in zip(
        (plain.of_a, plain.of_b, plain.carried),
        (found.of_a, found.of_b, found.carried),
        strict=True,
    ):
        assert value == pytest.approx(expected, abs=2e-3)


def test_too_few_units_or_other_roles_give_no_retention() -> None:
    a, b = relations_of(initialise()), relations_of(initialise())
    few = UnitMatching.identity(torch.arange(20), HIDDEN, HIDDEN)
    assert measure_retention(a, b, ((1, -1), (1, -1)), few) is None
    same = UnitMatching.identity(ALL, HIDDEN, HIDDEN)
    assert measure_retention(a, b, ((1, -1), (2, -1)), same) is None
    ungated = Relations(
        measure_relations(UnitVectors(FeedForward(torch.randn(WIDTH, HIDDEN), None,
                                                  torch.randn(HIDDEN, WIDTH)), -1, True).sample),
        torch.tensor([[1, -1, HIDDEN, 2]], dtype=torch.int32),
        torch.arange(HIDDEN).int(),
    )  # fmt: skip
    assert ungated.fits()
    assert measure_retention(a, ungated, ((1, -1), (1, -1)), same) is None


def test_damaged_relations_are_detected() -> None:
    relations = relations_of(initialise())
    assert not replace(relations, cosines=relations.cosines[:-1]).fits()
    assert not replace(relations, networks=relations.networks[:, :3]).fits()
    roles = torch.tensor([[1, -1, HIDDEN, 4]], dtype=torch.int32)
    assert not replace(relations, networks=roles).fits()


@pytest.mark.parametrize(
    ("retention", "words"), [(1.24, "100.0 %"), (1, "100.0 %"), (0.986, "98.6 %"), (-0.1, "0.0 %")]
)
def test_a_percentage_lies_between_0_and_100(retention: float, words: str) -> None:
    assert as_percent(retention) == words


def test_mean_retention() -> None:
    parts = [Retention(1.0, 0.8, 0.9), Retention(0.8, 0.6, 0.7)]
    mean = mean_retention(parts)
    assert mean is not None
    assert (mean.of_a, mean.of_b, mean.carried) == pytest.approx((0.9, 0.7, 0.8))
    assert mean_retention([]) is None


def test_the_standard_error_is_that_of_other_units() -> None:
    """The spread of a retention over disjoint halves of the units agrees with its error."""
    start = initialise()
    a, b = learn(start), learn(start)
    whole = retention(a, b)
    assert 0.002 < whole.error_of_a < 0.1
    found = []
    for half in range(12):
        units = torch.randperm(HIDDEN, generator=torch.Generator().manual_seed(half))[:96]
        half_a, half_b = ([W[units] for W in weights] for weights in (a, b))
        some = torch.arange(96)
        first, second = (_relations(weights, 96) for weights in (half_a, half_b))
        matching = UnitMatching.identity(some, 96, 96)
        part = measure_retention(first, second, ((1, -1), (1, -1)), matching)
        assert part is not None
        found.append(part.of_a)
    spread = float(torch.tensor(found).std())  # of half the units, half of them shared
    assert whole.error_of_a == pytest.approx(spread, rel=0.6)


def _relations(weights: Matrices, units: int) -> Relations:
    gate, up, down = weights
    sample = UnitVectors(FeedForward(up.T, gate.T, down), -1, whole=True).sample
    networks = torch.tensor([[1, -1, units, 3]], dtype=torch.int32)
    return Relations(measure_relations(sample), networks, torch.arange(int(networks[0, 2])).int())


def test_what_was_learned_is_near_zero_for_an_untrained_model() -> None:
    start = initialise()
    same = UnitMatching.identity(ALL, HIDDEN, HIDDEN)
    pair = relations_of(start), relations_of(learn(start))
    found = measure_retention(*pair, ((1, -1), (1, -1)), same, (WIDTH, WIDTH))
    assert found is not None
    assert abs(found.learned_a) < 0.02
    assert found.learned_b > 0.2


def test_the_mean_of_networks_has_a_smaller_error() -> None:
    parts = [Retention(1.0, 0.9, 0.8, 0.03, 0.04, 0.05), Retention(0.9, 0.7, 0.6, 0.03, 0.04, 0.05)]
    mean = mean_retention(parts)
    assert mean is not None
    assert (mean.of_a, mean.of_b, mean.carried) == pytest.approx((0.95, 0.8, 0.7))
    assert mean.error_of_a == pytest.approx(0.03 / 2**0.5)
    further = [replace(part, further_a=0.8, error_of_further_a=0.02) for part in parts]
    mean = mean_retention(further)
    assert mean is not None
    assert (mean.further_a, mean.error_of_further_a) == pytest.approx((0.8, 0.02 / 2**0.5))
