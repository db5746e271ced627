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
    return Relations(measure_relations(sample), networks)


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
