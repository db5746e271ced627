"""Blocks stored as two, and networks whose parts undo each other by any identity."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import silu

from huref.api.open import open_record
from huref.attacks import attack
from huref.attacks.opening import open_editable
from huref.invariants.halves import Half, join_halves
from huref.invariants.unit_outputs import EXACT_UNITS
from huref.invariants.zero_sums import find_zero_sum
from huref.lineage.similarity import compare_records
from huref.lineage.table import build_table

ZOO = Path(__file__).parents[2] / "checkpoints" / "zoo"


def half(index: int, place: str, share: float) -> Half:
    assert place in ("attention", "ffn")
    return Half(index, "attention" if place == "attention" else "ffn", share, share >= 0.05)


def stored(*shares: tuple[float, float]) -> list[Half]:
    """The halves of stored blocks with these shares of attention and network."""
    return [
        half(index, place, share)
        for index, block in enumerate(shares)
        for place, share in zip(("attention", "ffn"), block, strict=True)
    ]


def places(halves: list[Half]) -> list[tuple[int | None, int | None]]:
    """Stored blocks of the attention and of the network of each block of the function."""
    return [
        (
            block.attention.index if block.attention else None,
            block.ffn.index if block.ffn else None,
        )
        for block in join_halves(halves)
    ]


def test_blocks_are_put_together_from_the_halves_that_write() -> None:
    assert places(stored((0.3, 0.4), (0.2, 0.2))) == [(0, 0), (1, 1)]
    assert places(stored((0.3, 0.0), (0.0, 0.4), (0.2, 0.2))) == [(0, 1), (2, 2)]
    assert places(stored((0.3, 0.01), (0.002, 0.003), (0.01, 0.4))) == [(0, 2)]
    # A half that writes next to nothing stays where no other takes its place.
    assert places(stored((0.3, 0.01), (0.2, 0.2))) == [(0, 0), (1, 1)]
    assert places(stored((0.03, 0.3), (0.2, 0.01))) == [(0, 0), (1, 1)]
    assert places(stored((0.03, 0.0), (0.001, 0.3))) == [(0, 1)]
    assert places(stored((0.001, 0.001))) == []


def test_a_block_is_open_until_a_network_writes() -> None:
    blocks = join_halves(stored((0.3, 0.3), (0.3, 0.01)))
    assert [block.open for block in blocks] == [False, True]
    assert [block.index for block in blocks] == [0, 1]


@given(st.lists(st.tuples(st.floats(0.06, 1), st.floats(0.06, 1)), min_size=1, max_size=8))
def test_stored_as_two_is_the_same_block(shares: list[tuple[float, float]]) -> None:
    split = [row for a, f in shares for row in ((a, 0.0), (0.0, f))]
    assert places(stored(*split)) == [(2 * i, 2 * i + 1) for i in range(len(shares))]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 60), st.integers(2, 20), st.floats(0.2, 30))
def test_units_that_sum_to_nothing_are_found(
    seed: int, working: int, added: int, loud: float
) -> None:
    """The last added unit makes up for all others: no two of them are alike."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(300, 24, generator=draw)
    gate, up = (torch.randn(24, working, generator=draw) for _ in range(2))
    hidden, down = silu(x @ gate) * (x @ up), torch.randn(working, 24, generator=draw)
    assert len(find_zero_sum(hidden, down)) == 0
    # (a.x) (b.x) by units with tiny gates, and the same by those in another basis.
    a, b = (torch.randn(24, added, generator=draw) for _ in range(2))
    d = loud * torch.randn(added, 24, generator=draw)
    products = torch.cat([(x @ a) * (x @ b), (x @ (a + b)) ** 2, (x @ (a - b)) ** 2], 1)
    written = torch.cat([d, -d / 4, d / 4])
    order = torch.randperm(working + 3 * added, generator=draw)
    found = find_zero_sum(
        torch.cat([hidden, products], 1)[:, order], torch.cat([down, written])[order]
    )
    assert sorted(order[found].tolist()) == list(range(working, working + 3 * added))


@pytest.mark.parametrize("loud", [0.3, 3.0])
def test_units_of_a_large_network_that_sum_to_nothing_are_found(loud: float) -> None:
    """Conjugate gradients, on few tokens and few directions."""
    working, added, width = EXACT_UNITS + 400, 60, 96
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(200, width, generator=draw)
    gate, up = (torch.randn(width, working, generator=draw) for _ in range(2))
    hidden, down = silu(x @ gate) * (x @ up), torch.randn(working, width, generator=draw)
    assert len(find_zero_sum(hidden, down)) == 0
    a, b = (torch.randn(width, added, generator=draw) for _ in range(2))
    d = loud * torch.randn(added, width, generator=draw)
    products = torch.cat([(x @ a) * (x @ b), (x @ (a + b)) ** 2, (x @ (a - b)) ** 2], 1)
    order = torch.randperm(working + 3 * added, generator=draw)
    found = find_zero_sum(
        torch.cat([hidden, products], 1)[:, order], torch.cat([down, d, -d / 4, d / 4])[order]
    )
    assert sorted(order[found].tolist()) == list(range(working, working + 3 * added))


@pytest.mark.parametrize("working", [60, EXACT_UNITS + 60])
def test_dependent_units_that_write_hide_no_sum(working: int) -> None:
    """a, -(a + r) and 2 r depend on each other and write r, a unit of the network."""
    width, added = 96, 20
    draw = torch.Generator().manual_seed(7)
    x = torch.randn(200, width, generator=draw)
    gate, up = (torch.randn(width, working, generator=draw) for _ in range(2))
    hidden, down = silu(x @ gate) * (x @ up), torch.randn(working, width, generator=draw)
    same = hidden[:, :1].expand(-1, 2)  # a has the hidden state of r and another direction
    other = torch.randn(width, generator=draw)
    blocking = torch.stack([other, -other - down[0]])
    down[0] *= 2
    a, b = (torch.randn(width, added, generator=draw) for _ in range(2))
    d = torch.randn(added, width, generator=draw)
    products = torch.cat([(x @ a) * (x @ b), (x @ (a + b)) ** 2, (x @ (a - b)) ** 2], 1)
    hidden = torch.cat([hidden, same, products], 1)
    found = find_zero_sum(hidden, torch.cat([down, blocking, d, -d / 4, d / 4]))
    assert found.tolist() == list(range(working + 2, working + 2 + 3 * added))


def test_noise_around_a_unit_that_works_is_no_zero_sum() -> None:
    draw = torch.Generator().manual_seed(3)
    hidden = torch.randn(300, 40, generator=draw)
    down, noise = (torch.randn(40, 24, generator=draw) for _ in range(2))
    split = torch.cat([down - 100 * noise, 100 * noise])
    assert len(find_zero_sum(torch.cat([hidden, hidden], 1), split)) == 0


@pytest.mark.parametrize(
    ("kind", "sign"),
    [
        ("opposite-gates", "opposite gates"),
        ("opposing-units", "opposite gates"),
        ("even-heads", "cancelling heads"),
        ("half-blocks", "unit without effect"),
        ("linear-units", "cancelling units"),
        ("reversed-gates", "cancelling units"),
        ("even-units", "cancelling units"),
        ("known-text", "silent block"),
    ],
)
def test_copies_are_seen_through(kind: str, sign: str, tmp_path: Path) -> None:
    attack(ZOO / "llama-a", [kind], tmp_path / "copy", seed=2)
    base, copy = (open_record(str(f)) for f in (ZOO / "llama-a", tmp_path / "copy"))
    found = compare_records(base, copy)
    assert found.ics is not None
    assert found.ics > 0.995
    assert found.latent_cosine is not None
    assert found.latent_cosine > 0.99
    assert build_table([base, copy]).pairs[0].evidence.verdict == "descends"
    assert copy.function is not None
    assert sign in {one.kind for one in copy.function.signs}


def test_halves_may_write_next_to_nothing_and_blocks_come_in_between(tmp_path: Path) -> None:
    attack(ZOO / "llama-a", ["half-blocks", "silent-blocks-between"], tmp_path / "exact", seed=2)
    model = open_editable(str(tmp_path / "exact"))
    draw = torch.Generator().manual_seed(1)
    for block in model.blocks:
        for role in ("o", "down"):
            if not block.weights[role].any():
                noise = torch.randn(block.weights[role].shape, generator=draw).double()
                block.weights[role] = noise * 1e-3 * model.row_size
    model.save(tmp_path / "copy")
    base, copy = (open_record(str(f)) for f in (ZOO / "llama-a", tmp_path / "copy"))
    assert (compare_records(base, copy).ics or 0) > 0.99


@pytest.mark.parametrize("kind", ["reversed-gates", "linear-units"])
def test_experts_are_seen_through_as_well(kind: str, tmp_path: Path) -> None:
    attack(ZOO / "llama-a", [kind, "upcycling"], tmp_path / "copy", seed=2)
    base, copy = (open_record(str(f)) for f in (ZOO / "llama-a", tmp_path / "copy"))
    assert (compare_records(base, copy).ics or 0) > 0.99


def test_a_model_whose_attention_was_pruned_is_read(tmp_path: Path) -> None:
    model = open_editable(str(ZOO / "llama-a"))
    model.blocks[1].weights["o"] = torch.zeros_like(model.blocks[1].weights["o"])
    model.save(tmp_path / "pruned")
    base, pruned = (open_record(str(f)) for f in (ZOO / "llama-a", tmp_path / "pruned"))
    assert build_table([base, pruned]).pairs[0].evidence.verdict == "descends"
