"""Which pairs of a large table are compared by units, found by barcodes alone."""

from dataclasses import replace

import pytest
import torch

from huref.api.open import open_record
from huref.invariants.barcodes import NUMBERS, Barcodes
from huref.invariants.record import Record
from huref.lineage.screening import SURPRISE, screen_pairs
from huref.lineage.table import build_table
from tests.support.zoo import ZOO


def coded(base: Record, numbers: torch.Tensor, layers: tuple[int, ...] = (1,)) -> Record:
    size = len(numbers) // len(layers)
    networks = torch.tensor([[i, -1, size, size] for i in layers], dtype=torch.int32)
    return replace(base, layers=layers, barcodes=Barcodes(numbers.half(), networks))


def test_relatives_are_found_and_unrelated_models_are_not() -> None:
    torch.manual_seed(0)
    base = open_record(str(ZOO / "llama-b"), cache=True)
    first = torch.randn(192, NUMBERS)
    # The numbers of a barcode are correlated in real models, so they are here.
    mixed = torch.randn(NUMBERS, NUMBERS)
    strangers = [coded(base, torch.randn(192, NUMBERS) @ mixed) for _ in range(120)]
    records = [coded(base, first), coded(base, first + torch.randn(192, NUMBERS)), *strangers]
    assert screen_pairs(records) == {(0, 1)}


def test_surprises_are_standard_normal_under_independence() -> None:
    from huref.lineage.screening import _surprises

    torch.manual_seed(1)
    mixed = torch.randn(20, 20)
    codes = [(torch.randn(128, 20) @ mixed) for _ in range(150)]
    centred = [c - c.mean(dim=0) for c in codes]
    values = _surprises(centred)[*torch.triu_indices(150, 150, 1)]
    assert abs(float(values.mean())) < 0.05
    assert 0.95 < float(values.std()) < 1.05
    assert float(values.abs().max()) < SURPRISE


def test_other_blocks_other_sizes_and_missing_barcodes() -> None:
    torch.manual_seed(0)
    base = open_record(str(ZOO / "llama-b"), cache=True)
    first = torch.randn(192, NUMBERS)
    moved = coded(base, torch.cat([torch.randn(192, NUMBERS), first]), layers=(1, 2))
    large = replace(
        base,
        layers=(1,),
        barcodes=Barcodes(
            torch.randn(128, NUMBERS).half(),
            torch.tensor([[1, -1, 1024, 128]], dtype=torch.int32),
        ),
    )
    none = replace(base, barcodes=None)
    assert screen_pairs([none, large, coded(base, first), moved]) == {(2, 3)}


def test_a_replaced_vocabulary_is_found_in_a_large_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under other embeddings a model's terms are those of an unrelated model."""
    monkeypatch.setattr("huref.lineage.table.MANY_PAIRS", 0)
    torch.manual_seed(0)
    names = ("llama-a", "llama-a-continued", "llama-b")
    parent, child, stranger = (open_record(str(ZOO / name), cache=True) for name in names)
    assert child.terms is not None
    assert child.units is not None
    units = replace(child.units, features=torch.randn(child.units.features.shape).half())
    foreign = replace(child, model="foreign", terms=torch.randn(child.terms.shape), units=units)
    found = {(p.a, p.b): p.evidence.verdict for p in build_table([parent, foreign, stranger]).pairs}
    assert found == {
        (parent.model, "foreign"): "descends",
        (parent.model, stranger.model): "unrelated",
        ("foreign", stranger.model): "unrelated",
    }
