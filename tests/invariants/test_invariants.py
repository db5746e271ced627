"""Terms and anchors do not change under re-parametrisations and vocabulary extensions."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from huref.architecture.block import Attention, Block, FeedForward
from huref.errors import AnchorError
from huref.invariants.anchors import choose_anchors, is_eligible
from huref.invariants.extract import extract_terms
from huref.invariants.terms import block_terms, pearson, standardise, whiten
from huref.loader.checkpoint import open_checkpoint
from huref.loader.vocabulary import Token
from huref.loader.vocabulary.spelling import Kind
from huref.recipe import load_recipe


def random_block(d: int, heads: int, kv_heads: int, head_dim: int, hidden: int) -> Block:
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64) / math.sqrt(shape[0])

    return Block(
        0,
        Attention(
            q=draw(d, heads * head_dim),
            k=draw(d, kv_heads * head_dim),
            v=draw(d, kv_heads * head_dim),
            o=draw(heads * head_dim, d),
            heads=heads,
            kv_heads=kv_heads,
        ),
        FeedForward(up=draw(d, hidden), gate=draw(d, hidden), down=draw(hidden, d)),
    )


def orthogonal(n: int) -> torch.Tensor:
    basis: torch.Tensor = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]
    return basis


def reparametrise(block: Block, E: torch.Tensor) -> tuple[Block, torch.Tensor]:
    """Apply all function-preserving changes of a block with folded gains at once."""
    attention, ffn = block.attention, block.ffn
    assert isinstance(attention, Attention)
    assert isinstance(ffn, FeedForward)
    assert ffn.gate is not None
    per_group = attention.heads // attention.kv_heads
    head_dim = attention.q.shape[1] // attention.heads
    q, k, v, o = (w.clone() for w in (attention.q, attention.k, attention.v, attention.o))
    for group in range(attention.kv_heads):
        own = slice(group * head_dim, (group + 1) * head_dim)
        C, D = torch.randn(2, head_dim, head_dim, dtype=torch.float64) + 2 * torch.eye(head_dim)
        k[:, own] = k[:, own] @ torch.linalg.inv(C).T
        v[:, own] = v[:, own] @ D
        for head in range(group * per_group, (group + 1) * per_group):
            span = slice(head * head_dim, (head + 1) * head_dim)
            q[:, span] = q[:, span] @ C
            o[span] = torch.linalg.inv(D) @ o[span]
    order = torch.randperm(ffn.up.shape[1])
    scale = torch.randn(len(order), dtype=torch.float64).exp() * (-1) ** torch.arange(len(order))
    up, gate, down = ffn.up[:, order] * scale, ffn.gate[:, order], ffn.down[order] / scale[:, None]
    R = orthogonal(E.shape[1])
    changed = Block(
        0,
        Attention(R.T @ q, R.T @ k, R.T @ v, o @ R, attention.heads, attention.kv_heads),
        FeedForward(R.T @ up, R.T @ gate, down @ R),
    )
    return changed, E @ R


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kv_heads=st.sampled_from([1, 2, 3]),
    per_group=st.sampled_from([1, 2, 4]),
    head_dim=st.sampled_from([4, 6]),
    hidden=st.sampled_from([5, 33]),
    d=st.sampled_from([8, 24, 50]),
)
def test_terms_are_invariant_under_all_reparametrisations(
    seed: int, kv_heads: int, per_group: int, head_dim: int, hidden: int, d: int
) -> None:
    torch.manual_seed(seed)
    block = random_block(d, kv_heads * per_group, kv_heads, head_dim, hidden)
    E = torch.randn(32, d, dtype=torch.float64)
    changed, rotated = reparametrise(block, E)
    before = block_terms(block, whiten(E).double())
    after = block_terms(changed, whiten(rotated).double())
    assert pearson(before, after).min() > 1 - 1e-6


def test_whitening_is_the_damped_polar_factor() -> None:
    torch.manual_seed(0)
    for shape in ((20, 64), (64, 20)):
        E = torch.randn(shape, dtype=torch.float64) * torch.rand(shape[1]).double().exp()
        centred = E - E.mean(dim=0)
        u, s, vt = torch.linalg.svd(centred, full_matrices=False)
        expected = (u * (s / (s**2 + 0.1 * (s**2).sum() / len(s)).sqrt())) @ vt
        assert (whiten(E).double() - expected).abs().max() < 1e-6


def test_whitening_leaves_empty_rows_empty_and_bounds_duplicates() -> None:
    torch.manual_seed(0)
    E = torch.randn(40, 64)
    E[3] = 0
    E[10:20] = E[10] + 1e-6 * torch.randn(10, 64)
    W = whiten(E)
    assert not W[3].any()
    assert torch.linalg.matrix_norm(W, 2) <= 1
    # Whitening must not amplify rounding noise between the duplicates.
    assert (W[10:20] - W[10]).norm() < 1e-2 * W[10].norm()


def test_correlations_of_unrelated_terms_have_standard_deviation_one_over_m() -> None:
    torch.manual_seed(0)
    m = 128

    def terms() -> torch.Tensor:
        E = whiten(torch.randn(m, 160, dtype=torch.float64)).double()
        return block_terms(random_block(160, 4, 2, 16, 96), E)

    values = torch.stack([pearson(terms(), terms()) for _ in range(60)])
    assert abs(values.mean()) < 4 / m / values.numel() ** 0.5
    assert 0.8 / m < values.std() < 1.2 / m


@given(scale=st.floats(1e-6, 1e6), shift=st.floats(-10, 10))
def test_standardise_ignores_scale_and_shift(scale: float, shift: float) -> None:
    terms = torch.linspace(-1, 2, 50, dtype=torch.float64).sin().view(2, 5, 5)
    assert torch.allclose(standardise(terms), standardise((terms + shift) * scale), atol=1e-6)


def test_a_constant_term_correlates_with_nothing() -> None:
    assert pearson(torch.ones(3, 3), torch.randn(3, 3)) == 0
    assert not standardise(torch.ones(1, 4, 4)).any()


def vocabulary(words: list[str]) -> list[Token]:
    return [Token(i, word.encode(), "normal") for i, word in enumerate(words)]


def words(prefix: str, count: int) -> list[str]:
    generator = np.random.default_rng(len(prefix))
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    return sorted({prefix + "".join(generator.choice(letters, 6)) for _ in range(count)})


def test_added_tokens_change_few_anchors_and_other_scripts_none() -> None:
    old = words("", 3000)
    before = choose_anchors(vocabulary(old), 256)
    chinese = [chr(0x4E00 + i) + chr(0x4E01 + i) for i in range(2000)]
    korean = [" " + chr(0xAC00 + i) for i in range(1000)]
    assert choose_anchors(vocabulary(chinese + old + korean), 256).tokens == before.tokens
    as_short = [word[1:] for word in words("x", 300)]
    after = choose_anchors(vocabulary(old + as_short), 256)
    changed = sum(a != b for a, b in zip(before.tokens, after.tokens, strict=True))
    assert 0 < changed < 256 * 300 / 3300 * 2
    assert len(before.shared(after)) == 256 - changed


def test_long_added_tokens_change_no_anchor() -> None:
    old = words("", 2000)
    shorter = [word[: 2 + i % 4] for i, word in enumerate(old)]
    mixed = sorted({*old, *shorter})
    before = choose_anchors(vocabulary(mixed), 256)
    after = choose_anchors(vocabulary(mixed + words("extension", 1000)), 256)
    assert after.tokens == before.tokens


def test_renumbering_changes_ids_only() -> None:
    old = words("", 2000)
    before, after = (choose_anchors(vocabulary(v), 256) for v in (old, old[::-1]))
    assert before.tokens == after.tokens
    assert all(old[i] == old[::-1][j] for i, j in zip(before.ids, after.ids, strict=True))


def test_specials_bytes_and_added_tokens_are_no_anchors() -> None:
    kinds: tuple[Kind, ...] = ("special", "byte", "added")
    odd = [Token(5000 + i, f"odd{i}".encode(), kinds[i % 3]) for i in range(900)]
    plain = vocabulary(words("", 2000))
    assert choose_anchors([*odd, *plain], 256) == choose_anchors(plain, 256)


@pytest.mark.parametrize(
    ("text", "eligible"),
    [
        (b" the", True), ("é".encode(), True), ("straße".encode(), True), (b"x1_", True),
        (b"123", False), (b"\n\n", False), (b"a\tb", False), (b"", False), (b"\xc3", False),
        ("中文".encode(), False), ("aж".encode(), False), ("naïve。".encode(), False),
    ],
)  # fmt: skip
def test_eligible_tokens(text: bytes, eligible: bool) -> None:
    assert is_eligible(text, "latin") is eligible


def test_too_small_a_vocabulary_is_an_error() -> None:
    def few() -> Iterator[Token]:
        yield from vocabulary(words("", 50))

    with pytest.raises(AnchorError, match=r"fills only \d+ of 256"):
        choose_anchors(few(), 256)


def test_depth_does_not_change_the_terms(make_llama: Callable[..., Path]) -> None:
    checkpoint, recipe = open_checkpoint(str(make_llama("model"))), load_recipe()[0]
    alone, whole = extract_terms(checkpoint, recipe, "terms"), extract_terms(checkpoint, recipe)
    assert torch.equal(alone.terms, whole.terms)
    assert alone.traits == whole.traits
    assert (alone.units, alone.barcodes, alone.relations) == (None, None, None)
    assert whole.units is not None
