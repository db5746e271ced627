"""Synthetic families have the correlations that they claim."""

import pytest
import torch

from huref.encoder.embeddings import EmbeddingPool
from huref.encoder.synthetic import ACCIDENTS, Family, ics


def test_equal_seeds_give_equal_models_and_other_seeds_do_not() -> None:
    pool = EmbeddingPool(2, 64, [32], seed=1)
    first, again, other = (
        Family(pool, torch.Generator().manual_seed(seed)).base() for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rho", "low"), [(0.0, -0.03), (0.3, 0.2), (0.6, 0.45), (0.9, 0.8), (1, 1)]
)
def test_relatives_have_the_requested_correlation_less_the_loss_by_flattening(
    rho: float, low: float, families: list[Family], bases: torch.Tensor
) -> None:
    for family, base in zip(families[:2], bases, strict=False):
        assert low - 1e-6 <= float(ics(base, family.relative(rho))) <= rho + 0.03


def test_effects_of_accidents(families: list[Family], bases: torch.Tensor) -> None:
    seen = {kind: families[0].accident(kind) for kind in ACCIDENTS}
    correlation = {kind: float(ics(bases[0], terms)) for kind, terms in seen.items()}
    assert correlation["fp16"] > 0.999
    assert 0.7 < correlation["int4"] < 0.999
    assert correlation["missing"] == pytest.approx(0.5, abs=0.001)
    assert correlation["moved"] == pytest.approx(0.0, abs=0.05)
    torch.testing.assert_close(seen["moved"][1], bases[0][0])
    assert 0.1 < correlation["anchors"] < 0.9
