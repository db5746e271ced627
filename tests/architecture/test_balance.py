"""Factors between neighbouring matrices are moved back without changing a bit of what they do."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import huref
from huref.architecture.balance import LIMIT, balance_attention, balance_network
from huref.architecture.block import Attention, FeatureNorm, FeedForward, LatentAttention
from huref.attacks import attack
from huref.errors import AttackError
from scripts.evaluate.random_models import FAMILIES, make_model
from tests.support.zoo import ZOO

WIDTH, HIDDEN, HEADS, KV_HEADS, SIZE = 12, 20, 4, 2, 6
PLANES = torch.tensor([0, 1, 0, 1, 4, 5])  # two rotary planes by halves, two features beside


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def powers(count: int, generator: torch.Generator, most: int = 80) -> Tensor:
    exponents = torch.randint(-most, most + 1, (count,), generator=generator)
    return (2.0 ** exponents.double()).float()


def network(generator: torch.Generator) -> FeedForward:
    up, gate, down = (
        torch.randn(shape, generator=generator)
        for shape in ((WIDTH, HIDDEN), (WIDTH, HIDDEN), (HIDDEN, WIDTH))
    )
    return FeedForward(up, gate, down, {"up": torch.randn(HIDDEN, generator=generator)})


def attention(generator: torch.Generator) -> Attention:
    q, k, v, o = (
        torch.randn(shape, generator=generator)
        for shape in (
            (WIDTH, HEADS * SIZE),
            (WIDTH, KV_HEADS * SIZE),
            (WIDTH, KV_HEADS * SIZE),
            (HEADS * SIZE, WIDTH),
        )
    )
    biases = {"q": torch.randn(HEADS * SIZE, generator=generator)}
    return Attention(q, k, v, o, HEADS, KV_HEADS, biases=biases)


def spread(*weights: Tensor) -> float:
    """By how many bits the largest weights of vectors differ at most, (vectors, entries) each."""
    sizes = torch.stack([weight.abs().amax(dim=1).log2() for weight in weights])
    return float((sizes.amax(dim=0) - sizes.amin(dim=0)).max())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_units_are_balanced_and_compute_the_same_bits(seed: int) -> None:
    generator = draw(seed)
    before, s = network(generator), powers(HIDDEN, generator)
    scaled = FeedForward(
        before.up * s, before.gate, before.down / s[:, None], {"up": before.biases["up"] * s}
    )
    after = balance_network(scaled)
    E = torch.randn(9, WIDTH, generator=generator)
    assert torch.equal(after.write(E), before.write(E))
    assert spread(after.up.T, after.down) <= LIMIT
    back = after.biases["up"] / before.biases["up"]
    assert torch.equal(before.up * back, after.up)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_heads_are_balanced_by_planes_and_compute_the_same_bits(seed: int) -> None:
    generator = draw(seed)
    before = attention(generator)
    group = HEADS // KV_HEADS
    of_k, of_v = (powers(KV_HEADS * SIZE, generator).view(KV_HEADS, SIZE) for _ in range(2))
    of_k[:, 2:4] = of_k[:, :2]
    of_q, of_o = (f.repeat_interleave(group, dim=0).flatten() for f in (of_k, of_v))
    scaled = Attention(
        before.q / of_q, before.k * of_k.flatten(), before.v * of_v.flatten(),
        before.o / of_o[:, None], HEADS, KV_HEADS, biases={"q": before.biases["q"] / of_q},
    )  # fmt: skip
    after = balance_attention(scaled, PLANES)
    assert isinstance(after, Attention)
    E = torch.randn(9, WIDTH, generator=generator)
    assert torch.equal(after.scores(E), before.scores(E))
    assert torch.equal(after.write(E), before.write(E))
    moved = (after.k / before.k)[0].view(KV_HEADS, SIZE)
    assert torch.equal(moved[:, 2:4], moved[:, :2])
    assert torch.equal(after.biases["q"] / before.biases["q"], (after.q / before.q)[0])


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31))
def test_latent_attention_is_balanced(seed: int) -> None:
    generator = draw(seed)
    rank, nope, rope = 8, 5, 2
    shapes = {
        "q_b": (WIDTH, HEADS * (nope + rope)), "kv_a": (WIDTH, rank), "k_rope": (WIDTH, rope),
        "k_b": (rank, HEADS * nope), "v_b": (rank, HEADS * SIZE), "o": (HEADS * SIZE, WIDTH),
    }  # fmt: skip
    W = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    of_k, of_v = powers(HEADS * nope, generator), powers(HEADS * SIZE, generator)
    of_q = torch.cat([1 / of_k.view(HEADS, nope), torch.ones(HEADS, rope)], dim=1).flatten()
    scaled = W | {
        "q_b": W["q_b"] * of_q, "k_b": W["k_b"] * of_k, "v_b": W["v_b"] * of_v,
        "o": W["o"] / of_v[:, None],
    }  # fmt: skip

    def make(weights: dict[str, Tensor]) -> LatentAttention:
        q_b, kv_a, k_rope, k_b, v_b, o = weights.values()
        return LatentAttention(None, None, q_b, kv_a, None, k_rope, k_b, v_b, o, HEADS)

    before, after = make(W), balance_attention(make(scaled))
    E = torch.randn(9, WIDTH, generator=generator)
    assert torch.equal(after.scores(E), before.scores(E))
    assert torch.equal(after.write(E), before.write(E))
    assert spread(after.o, after.values(torch.eye(WIDTH)).flatten(1).T) < 2 * LIMIT


def test_what_is_balanced_or_may_not_be_rescaled_stays() -> None:
    generator = draw(0)
    plain, heads = network(generator), attention(generator)
    assert balance_network(plain) is plain
    assert balance_attention(heads, PLANES) is heads
    ungated = FeedForward(plain.up * 1e20, None, plain.down)
    assert balance_network(ungated) is ungated
    assert spread(balance_network(ungated, homogeneous=True).up.T, plain.down) < 40
    norm = FeatureNorm("rms", "head", None)
    normed = Attention(heads.q * 1e20, heads.k, heads.v, heads.o, HEADS, KV_HEADS, norm, norm, norm)
    assert balance_attention(normed) is normed


@pytest.mark.parametrize("shared", [True, False])
def test_gains_of_norms_on_queries_and_keys_are_balanced(shared: bool) -> None:
    generator = draw(1)
    heads = attention(generator)
    s = powers(SIZE, generator)
    s[2:4] = s[:2]
    gains = [torch.rand(SIZE, generator=generator) + 0.5 for _ in range(2)]
    if not shared:
        gains = [g.repeat(n).view(n, SIZE) for g, n in zip(gains, (HEADS, KV_HEADS), strict=True)]

    def make(q_gain: Tensor, k_gain: Tensor) -> Attention:
        q_norm, k_norm = (FeatureNorm("rms", "head", gain) for gain in (q_gain, k_gain))
        return Attention(heads.q, heads.k, heads.v, heads.o, HEADS, KV_HEADS, q_norm, k_norm)

    before, after = make(*gains), balance_attention(make(gains[0] * s, gains[1] / s), PLANES)
    assert isinstance(after, Attention)
    assert after.q_norm is not None
    assert after.q_norm.gain is not None
    assert float(after.q_norm.gain.abs().max()) < 2**LIMIT
    E = torch.randn(9, WIDTH, generator=generator)
    assert torch.equal(after.scores(E), before.scores(E))


def test_a_unit_or_feature_of_zeros_stays_zero() -> None:
    plain = network(draw(0))
    up, down = plain.up * 1e-20, plain.down.clone()
    up[:, 3], down[5] = 0, 0
    after = balance_network(FeedForward(up, plain.gate, down))
    assert not after.up[:, 3].any()
    assert not after.down[5].any()
    assert torch.isfinite(after.up).all()
    assert torch.isfinite(after.down).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_extreme_scales_change_no_similarity(family: str, tmp_path: Path) -> None:
    """Squares of weights overflowed: copies were inconclusive, refused or had an ICS of .67."""
    folder = make_model(tmp_path / "model", family)
    copy = folder.parent / "copy"
    attack(folder, ["extreme-scales"], copy, 3)
    pair = huref.compare([str(folder), str(copy)], cache=False).pairs[0]
    assert pair.evidence.verdict == "descends", pair.why
    assert pair.similarity.ics == pytest.approx(1, abs=1e-9)
    assert pair.evidence.same == "function"


def test_float16_has_no_room_for_extreme_scales(tmp_path: Path) -> None:
    with pytest.raises(AttackError, match="no room"):
        attack(ZOO / "llama-a", ["extreme-scales"], tmp_path / "copy")
