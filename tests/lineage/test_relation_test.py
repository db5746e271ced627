"""Units are found by their relations alone, without tokens and in any order."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import huref
from huref.attacks import attack
from huref.invariants.relations import Relations, measure_relations
from huref.lineage.relation_test import (
    FEWEST,
    compare_networks,
    corresponding_units,
    hinted_networks,
)
from scripts.evaluate.random_models import make_model

WIDTH = 40
SIGNIFICANT = -6.0
RENUMBERED = ("renumbered-strings", "renumbered-words", "renumbered-anchors")


def relations_of(networks: list[tuple[int, Tensor, Tensor]]) -> Relations:
    """Relations of networks: block, indices of units, and their vectors (roles, units, d)."""
    normal = [torch.nn.functional.normalize(vectors, dim=2) for _, _, vectors in networks]
    rows = [
        [layer, -1, len(units), len(vectors)]
        for (layer, units, _), vectors in zip(networks, normal, strict=True)
    ]
    return Relations(
        torch.cat([measure_relations(vectors) for vectors in normal]),
        torch.tensor(rows, dtype=torch.int32),
        torch.cat([units.int() for _, units, _ in networks]),
    )


def orthogonal(draw: torch.Generator) -> Tensor:
    turn: Tensor = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=draw))[0]
    return turn


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    units=st.integers(100, 200),
    roles=st.sampled_from([2, 3]),
    noise=st.sampled_from([0.0, 0.05, 0.1]),
)
def test_permuted_rotated_and_noisy_units_are_found(
    seed: int, units: int, roles: int, noise: float
) -> None:
    """Three quarters of either sample are in both, in any order; signs of up and down are free."""
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.randn(roles, units, WIDTH, generator=draw)
    copy = (vectors + noise * torch.randn(vectors.shape, generator=draw)) @ orthogonal(draw)
    if roles == 3:
        copy[1:] *= torch.randint(0, 2, (units, 1), generator=draw) * 2 - 1
    order = torch.randperm(units, generator=draw)  # unit i of the copy is unit order[i]
    shown = units - units // 8
    a, b = (torch.randperm(units, generator=draw)[:shown].sort().values for _ in range(2))
    x = relations_of([(1, a, vectors[:, a])])
    y = relations_of([(1, b, copy[:, order][:, b])])
    in_a, in_b = corresponding_units(x, y, 0, 0)
    both = len(set(a.tolist()) & set(order[b].tolist()))
    right = int((in_a == order[in_b]).sum())
    assert right >= 0.95 * both
    assert right >= 0.95 * len(in_a)
    assert hinted_networks(x, y) == [(0, 0)]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), units=st.integers(FEWEST, 250), shared=st.floats(0, 3))
def test_independent_units_are_not_found(seed: int, units: int, shared: float) -> None:
    """Even where all vectors lean to one direction, as those of trained networks do."""
    draw = torch.Generator().manual_seed(seed)
    lean = shared * torch.randn(3, 1, WIDTH, generator=draw)
    x, y = (
        relations_of(
            [(1, torch.arange(units), torch.randn(3, units, WIDTH, generator=draw) + lean)]
        )
        for _ in range(2)
    )
    test, _ = compare_networks(x, y, 0, 0)
    assert test.units.matched <= 8  # about one by chance
    assert test.log10_p > SIGNIFICANT


def test_networks_with_and_without_a_gate_and_tiny_ones_are_not_compared() -> None:
    draw = torch.Generator().manual_seed(0)
    few, many = torch.arange(FEWEST - 1), torch.arange(100)
    x = relations_of(
        [
            (0, many, torch.randn(3, 100, WIDTH, generator=draw)),
            (1, few, torch.randn(3, len(few), WIDTH, generator=draw)),
        ]
    )
    y = relations_of([(0, many, torch.randn(2, 100, WIDTH, generator=draw))])
    assert hinted_networks(x, y) == []
    assert len(corresponding_units(x, y, 0, 0)[0]) == 0
    assert len(corresponding_units(x, x, 1, 1)[0]) == 0
    assert (0, 0) in hinted_networks(x, x)


@pytest.mark.parametrize(
    "strings", ["renumbered-strings", "renumbered-words", "renumbered-anchors"]
)
@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_permuted_units_under_renumbered_strings_are_found_by_two_blocks(
    family: str, strings: str, tmp_path: Path
) -> None:
    """Such copies were unrelated, or inconclusive with a sign: samples of units never met."""
    model = make_model(tmp_path / "model", family, groups=4, half_dim=8)
    other = make_model(tmp_path / "other", family, groups=4, half_dim=8, seed=1)
    attack(model, ["ffn-permutation", "head-permutation", strings], tmp_path / "copy", 3)
    table = huref.compare([str(model), str(tmp_path / "copy"), str(other)], cache=False)
    copied, stranger, _ = table.pairs
    assert copied.evidence.units is not None
    assert copied.evidence.units.of < 384  # a sample
    assert copied.evidence.verdict == "descends", copied.why
    assert "relate to the others in the same way" in copied.why
    assert stranger.evidence.verdict != "descends"
