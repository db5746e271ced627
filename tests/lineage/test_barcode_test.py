"""Barcodes identify units without tokens, embeddings or order."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from huref.api.open import open_record
from huref.architecture.block import Attention, FeedForward
from huref.attacks import attack
from huref.invariants.anchors import Anchors
from huref.invariants.barcodes import FLIPS, NUMBERS, Barcodes, UnitVectors, sampled_units
from huref.invariants.record import Record
from huref.lineage.barcode_test import compare_barcodes
from huref.lineage.table import build_table
from tests.support.zoo import ZOO

WIDTH, HIDDEN = 24, 40


def orthogonal(size: int) -> Tensor:
    result: Tensor = torch.linalg.qr(torch.randn(size, size))[0]
    return result


def repeated(C: Tensor, heads: int) -> Tensor:
    """The same map for each head."""
    return torch.kron(torch.eye(heads), C.contiguous())


def random_block() -> tuple[FeedForward, Attention]:
    ffn = FeedForward(
        torch.randn(WIDTH, HIDDEN), torch.randn(WIDTH, HIDDEN), torch.randn(HIDDEN, WIDTH)
    )
    q, o = torch.randn(WIDTH, 16), torch.randn(16, WIDTH)
    return ffn, Attention(q, torch.randn(WIDTH, 8), torch.randn(WIDTH, 8), o, heads=4, kv_heads=2)


def codes_of(ffn: FeedForward, attention: Attention) -> Tensor:
    return UnitVectors(ffn, -1, whole=True).barcodes(attention)


def test_barcodes_are_invariant_to_changes_that_keep_the_function() -> None:
    torch.manual_seed(0)
    ffn, attention = random_block()
    assert ffn.gate is not None
    before = codes_of(ffn, attention)
    assert before.shape == (HIDDEN, NUMBERS)
    R, C, s, order = (
        orthogonal(WIDTH),
        orthogonal(4),
        torch.rand(HIDDEN) + 0.5,
        torch.randperm(HIDDEN),
    )
    turned = FeedForward(
        (R.T @ ffn.up * s)[:, order],
        (R.T @ ffn.gate)[:, order],
        (ffn.down @ R / s[:, None])[order],
    )
    per_head = repeated(C, 2)
    mapped = replace(
        attention,
        q=R.T @ attention.q @ repeated(C, 4),
        k=R.T @ attention.k @ per_head,
        v=R.T @ attention.v @ per_head,
        o=repeated(C, 4).T @ attention.o @ R,
    )
    after = codes_of(turned, mapped)
    assert torch.allclose(after, before[order], atol=1e-3 * float(before.abs().max()))


def test_negating_up_and_down_flips_only_the_numbers_in_flips() -> None:
    torch.manual_seed(0)
    ffn, attention = random_block()
    before = codes_of(ffn, attention)
    after = codes_of(FeedForward(-ffn.up, ffn.gate, -ffn.down), attention)
    signs = torch.tensor([-1.0 if flips else 1.0 for flips in FLIPS])
    assert torch.allclose(after, before * signs, atol=1e-3)


def test_large_networks_are_sampled() -> None:
    assert sampled_units(192).tolist() == list(range(192))
    assert 128 <= len(sampled_units(11008)) < 256


def full(name: str) -> Record:
    return open_record(str(ZOO / name), depth="full", cache=True)


@pytest.fixture(scope="module")
def base() -> Record:
    return full("llama-a")


def without_tokens(record: Record) -> Record:
    """The same model with a vocabulary of its own: other strings, and embeddings of noise."""
    assert record.anchors is not None
    assert record.units is not None
    tokens = tuple(b"?" + token if token else b"" for token in record.anchors.tokens)
    noise = torch.randn(record.units.features.shape).half()
    return replace(
        record,
        model="other vocabulary",
        anchors=Anchors(tokens, record.anchors.ids),
        units=replace(record.units, features=noise),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("llama-a-finetune", "descends"),
        ("llama-a-continued", "descends"),
        ("llama-a-twin", "shared initialisation"),
        ("llama-b", None),
        ("mistral-d", None),
    ],
)
def test_verdicts_need_no_shared_tokens(base: Record, name: str, verdict: str | None) -> None:
    torch.manual_seed(0)
    pair = build_table([base, without_tokens(full(name))]).pairs[0]
    assert pair.similarity.ics is None
    assert pair.evidence.verdict == verdict
    if verdict:
        assert pair.evidence.test == "order"
        assert "barcodes" in pair.why


def test_permuted_units_are_found_where_all_have_barcodes(base: Record, tmp_path: Path) -> None:
    attack(ZOO / "llama-a-continued", ["ffn-permutation", "rotation"], tmp_path / "attacked")
    attacked = open_record(str(tmp_path / "attacked"), depth="full")
    found = compare_barcodes(base, attacked)
    assert found is not None
    assert found.test == "agreement"
    assert found.log10_p < -20
    stranger = compare_barcodes(full("llama-b"), attacked)
    assert stranger is not None
    assert stranger.log10_p > -2


def test_networks_of_other_sizes_need_barcodes_of_all_units(base: Record) -> None:
    assert base.barcodes is not None
    some = Barcodes(
        base.barcodes.numbers[: 2 * 100],
        torch.tensor([[1, -1, 300, 100], [2, -1, 300, 100]], dtype=torch.int32),
    )
    assert compare_barcodes(base, replace(base, barcodes=some)) is None
    narrow = Barcodes(
        torch.cat([base.barcodes.of_network(i)[::2] for i in (0, 1)]),
        torch.tensor([[1, -1, 96, 96], [2, -1, 96, 96]], dtype=torch.int32),
    )
    found = compare_barcodes(base, replace(base, barcodes=narrow))
    assert found is not None
    assert found.found
