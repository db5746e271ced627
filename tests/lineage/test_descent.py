"""The test of twins: uniform on simulated twins, small on simulated descendants."""

from dataclasses import replace

import pytest
import torch

from huref.lineage.descent import LEVEL, score, twins_p
from huref.lineage.retention import Retention
from huref.lineage.unit_matching import UnitMatching
from tests.lineage.test_retention import HIDDEN, Matrices, initialise, learn, relations_of

WIDTH = 64


def compare(a: Matrices, b: Matrices) -> Retention:
    from huref.lineage.retention import measure_retention

    same = UnitMatching.identity(torch.arange(HIDDEN), HIDDEN, HIDDEN)
    found = measure_retention(
        relations_of(a), relations_of(b), ((1, -1), (1, -1)), same, (WIDTH, WIDTH)
    )
    assert found is not None
    return found


@pytest.mark.parametrize("noise", [0.02, 0.3])
@pytest.mark.parametrize("strength", [0.3, 0.7])
def test_descendants_are_told_from_twins(strength: float, noise: float) -> None:
    """However strongly either was trained, and with how much noise."""
    torch.manual_seed(1)
    start = initialise()
    parent = learn(start, strength, noise)
    assert twins_p(compare(parent, learn(parent, strength, noise))) < LEVEL
    for other in (0.3, 0.7, 1.0):
        twin = learn(start, other, noise)
        assert twins_p(compare(parent, twin)) > 0.05, other
        assert twins_p(compare(parent, learn(twin, strength, noise))) > 0.05, other


def test_a_model_that_learned_nothing_is_an_ancestor_of_nobody() -> None:
    torch.manual_seed(2)
    start = initialise()
    assert twins_p(compare(start, learn(start))) > 0.05
    nearly = [weight + 0.01 * torch.randn_like(weight) for weight in start]
    assert twins_p(compare(nearly, learn(start))) > 0.05


def test_a_model_of_unknown_width_gives_no_p_value() -> None:
    assert twins_p(Retention(1.0, 1.0, 0.9)) == 1


def test_a_score_is_measured_in_standard_errors() -> None:
    assert score(0.3, 0.0, 0.0) > 4
    assert score(0.3, 2.4 * 0.3, 0.05) == pytest.approx(0, abs=1e-9)
    assert 0 < score(0.02, 0.0, 0.3) < 0.5


def test_an_excess_without_a_gate_says_nothing_where_little_is_carried() -> None:
    """As twins of GPT-2's shape, of which one was trained long and hot (docs/measured/twins.md)."""
    hot = Retention(
        1.18, 0.47, 0.64, further_a=1.18, further_b=0.5, error_of_further_a=0.04,
        error_of_further_b=0.025, learned_a=0.07, learned_b=0.37,
    )  # fmt: skip
    assert twins_p(hot) < LEVEL
    assert twins_p(replace(hot, roles=2)) == 1
    assert twins_p(replace(hot, roles=2, carried=0.8)) < LEVEL
    assert twins_p(replace(hot, roles=2, further_a=1.04)) < LEVEL
