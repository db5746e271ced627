"""Networks written with reversed gates, and heads, blocks and strings that say nothing."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import gelu, silu

from huref.api.open import open_record
from huref.architecture.block import FeedForward
from huref.attacks import attack
from huref.attacks.decoy_blocks import random_block
from huref.attacks.depth import insert_block
from huref.attacks.opening import open_editable
from huref.invariants.block_use import LinearUnits
from huref.invariants.opposite_gates import resolve_opposite_gates
from huref.invariants.unit_outputs import EXACT_UNITS
from huref.lineage.table import build_table

ZOO = Path(__file__).parents[2] / "checkpoints" / "zoo"
Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {"silu": silu, "gelu": gelu, "relu": torch.relu}
WIDTH = 24


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def run(network: FeedForward, activation: Activation, x: Tensor) -> Tensor:
    up = x @ network.up + network.biases.get("up", 0)
    if network.gate is None:
        return activation(up) @ network.down
    gate = x @ network.gate + network.biases.get("gate", 0)
    return (activation(gate) * up) @ network.down


def make_network(seed: int, units: int, gated: bool, biased: bool) -> FeedForward:
    roles = ("gate", "up") if gated else ("up",)
    biases = {role: draw(seed + 7, units) for role in roles} if biased else {}
    gate = draw(seed, WIDTH, units) if gated else None
    return FeedForward(draw(seed + 1, WIDTH, units), gate, draw(seed + 2, units, WIDTH), biases)


def reverse(network: FeedForward, chosen: Tensor) -> FeedForward:
    """The same function with the gates of some units reversed, in a new order."""
    key = network.up if network.gate is None else network.gate
    role = "up" if network.gate is None else "gate"
    signs = 1 - 2 * chosen.double()
    up, down, d = network.up, network.down, network.down[chosen]
    rows = {r: [b * signs if r == role else b] for r, b in network.biases.items()}
    if network.gate is None:
        # (u.x) d is written by pairs of opposite units, here of random directions.
        inputs = torch.cat([up, network.biases["up"][None]]) if network.biases else up
        Q = torch.linalg.qr(draw(5, len(inputs), len(inputs)))[0]
        linear = Q.T @ inputs[:, chosen] @ d
        up = torch.cat([up * signs, Q[:WIDTH], -Q[:WIDTH]], 1)
        down = torch.cat([down, linear, -linear])
        for values in rows.values():
            values += [Q[-1], -Q[-1]]
        gate = None
    else:
        g, u = key[:, chosen], up[:, chosen]
        gate = torch.cat([key * signs, u, -u], 1)
        up, down = torch.cat([up, g, g], 1), torch.cat([down, d, -d])
        if network.biases:
            b, c = network.biases["gate"][chosen], network.biases["up"][chosen]
            rows = {"gate": [*rows["gate"], c, -c], "up": [*rows["up"], b, b]}
    order = torch.randperm(len(down), generator=torch.Generator().manual_seed(3))
    biases = {r: torch.cat(values)[order] for r, values in rows.items()}
    gate = None if gate is None else gate[:, order]
    return FeedForward(up[:, order], gate, down[order], biases)


def single(network: FeedForward) -> FeedForward:
    parts = (network.up, network.gate, network.down)
    up, gate, down = (None if t is None else t.float() for t in parts)
    assert up is not None
    assert down is not None
    return FeedForward(up, gate, down, {r: b.float() for r, b in network.biases.items()})


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(4, 40), st.sampled_from(sorted(ACTIVATIONS)),
    st.booleans(), st.booleans(), st.floats(0.1, 1.0),
)  # fmt: skip
def test_reversed_gates_are_turned_back(
    seed: int, units: int, name: str, gated: bool, biased: bool, share: float
) -> None:
    activation = ACTIVATIONS[name]
    network = make_network(seed, units, gated, biased)
    chosen = torch.zeros(units, dtype=torch.bool)
    chosen[: max(int(share * units), 1)] = True
    copy = reverse(network, chosen)
    x = draw(seed + 4, 50, WIDTH)
    wanted = run(network, activation, x)
    assert torch.allclose(run(copy, activation, x), wanted, atol=1e-9)
    found = resolve_opposite_gates(single(copy), activation, homogeneous=name == "relu")
    assert found.up.shape[1] == units
    assert torch.allclose(run(found, activation, x.float()).double(), wanted, atol=2e-3, rtol=1e-3)
    # Each unit of the source is there again, its gate in the direction that it had.
    key, again = (n.up if n.gate is None else n.gate for n in (single(network), found))
    cosines = torch.nn.functional.normalize(key, dim=0).T @ torch.nn.functional.normalize(
        again, dim=0
    )
    assert torch.all(cosines.max(dim=1).values > 0.999)


def test_gates_of_a_large_network_are_turned_back() -> None:
    """The least squares are sampled: no matrix of all pairs of units is formed."""
    units = EXACT_UNITS + 140
    network = make_network(5, units, gated=True, biased=False)
    chosen = torch.arange(units) % 3 == 0
    copy = reverse(network, chosen)
    found = resolve_opposite_gates(single(copy), silu)
    assert found.up.shape[1] == units
    x = draw(9, 50, WIDTH)
    wanted = run(network, silu, x)
    assert torch.allclose(run(found, silu, x.float()).double(), wanted, atol=0.05, rtol=1e-2)


def test_linear_units_that_write_nothing_stay() -> None:
    network = single(make_network(6, 40, True, False))
    network.down[:10] = 0.0
    linear = LinearUnits(torch.arange(10), torch.ones(10), torch.zeros(10))
    assert resolve_opposite_gates(network, silu, on_text=linear) is network


@pytest.mark.parametrize("gated", [True, False])
def test_other_networks_stay_as_they_are(gated: bool) -> None:
    network = single(make_network(0, 40, gated, False))
    assert resolve_opposite_gates(network, silu) is network
    # Without the other half of the pair a reversed gate computes something else.
    opposite = FeedForward(
        torch.cat([network.up, -network.up], 1),
        None if network.gate is None else torch.cat([network.gate, -network.gate], 1),
        torch.cat([network.down, draw(9, 40, WIDTH).float()]),
    )
    assert resolve_opposite_gates(opposite, silu) is opposite
    assert resolve_opposite_gates(opposite, torch.sigmoid) is opposite


def test_three_blocks_that_undo_each_other_do_not_count(tmp_path: Path) -> None:
    model = open_editable(str(ZOO / "llama-a"))
    generator = torch.Generator().manual_seed(1)
    blocks = [random_block(model, 0.06, generator) for _ in range(3)]
    for role in ("o", "down"):  # one reads like another, so that their outputs can sum to zero
        for block in blocks[1:]:
            block.weights |= {r: w for r, w in blocks[0].weights.items() if r not in ("o", "down")}
        blocks[2].weights[role] = -blocks[0].weights[role] - blocks[1].weights[role]
    for block in reversed(blocks):
        insert_block(model, 0, block, 0)
    model.save(tmp_path / "copy")
    copy = open_record(str(tmp_path / "copy"))
    assert copy.layers == (4, 5)
    assert copy.function is not None
    assert any("0, 1 and 2 undo" in sign.words for sign in copy.function.signs)


def test_a_tokenizer_that_does_not_fit_is_seen_at_the_default_depth(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    attack(ZOO / "llama-a", ["ffn-permutation", "renumbered-strings"], folder, seed=2)
    base, copy = (open_record(str(f)) for f in (ZOO / "llama-a", folder))
    assert base.function is not None
    assert copy.function is not None
    assert base.function.signs == ()
    assert [sign.kind for sign in copy.function.signs] == ["tokenizer does not fit"]
    assert build_table([base, copy]).pairs[0].evidence.verdict in ("descends", "inconclusive")
    shutil.rmtree(folder)
