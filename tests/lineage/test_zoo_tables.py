"""Tables of the zoo, whose lineage is known."""

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch

import huref
from huref.api.open import open_record
from huref.attacks import attack
from huref.cli.tables import FORMATS
from huref.invariants.record import Record
from huref.lineage.barcode_test import compare_barcodes
from huref.lineage.correspondence import compare_units
from huref.lineage.similarity import compare_all, compare_records
from huref.lineage.table import LineageTable, Pair, build_table
from scripts.zoo.manifest import kinship, read_manifest
from tests.support.zoo import ZOO

MODELS = read_manifest(ZOO)["models"]


@pytest.fixture(scope="module")
def table() -> LineageTable:
    return huref.compare([ZOO / name for name in MODELS])


def pairs_of(table: LineageTable, *truths: str) -> list[tuple[str, str, Pair]]:
    named = zip(combinations(MODELS, 2), table.pairs, strict=True)
    return [(a, b, pair) for (a, b), pair in named if kinship(MODELS, a, b) in truths]


def ics_of(pairs: list[tuple[str, str, Pair]]) -> list[float]:
    """Of pairs that share terms, which all of this zoo do."""
    found = [pair.similarity.ics for _, _, pair in pairs]
    assert None not in found
    return [ics for ics in found if ics is not None]


def test_every_kind_of_relation_is_in_the_zoo(table: LineageTable) -> None:
    for truth in ("descends", "siblings", "shared initialisation", "unrelated"):
        assert pairs_of(table, truth), truth


def test_related_and_unrelated_pairs_differ_clearly_in_ics(table: LineageTable) -> None:
    kin = ics_of(pairs_of(table, "descends", "siblings"))
    strangers = ics_of(pairs_of(table, "unrelated"))
    shared = ics_of(pairs_of(table, "shared initialisation"))
    assert min(kin) > 0.7
    assert max(map(abs, strangers)) < 0.05
    assert all(0.1 < ics < 0.5 for ics in shared)


def test_latent_cosines_approximate_the_ics(table: LineageTable) -> None:
    for a, b, pair in pairs_of(table, "unrelated"):
        cosine = pair.similarity.latent_cosine
        assert cosine is not None
        assert abs(cosine) < 0.2, (a, b)
    for a, b, pair in pairs_of(table, "descends", "siblings"):
        cosine, ics = pair.similarity.latent_cosine, pair.similarity.ics
        assert cosine is not None
        assert ics is not None
        assert cosine > 0.9, (a, b)
        assert abs(cosine - ics) < 0.05, (a, b)


def test_an_extended_vocabulary_keeps_nearly_all_anchors(table: LineageTable) -> None:
    shared = {(a, b): p.similarity.shared_anchors for a, b, p in pairs_of(table, "descends")}
    count = shared["llama-a", "llama-a-extended"]
    assert count is not None
    assert count > 480


def test_every_format_shows_every_model(table: LineageTable) -> None:
    for form in FORMATS.values():
        text = form(table)
        for name in MODELS:
            assert name in text


def test_a_record_and_its_model_are_the_same(tmp_path: Path) -> None:
    huref.fingerprint(ZOO / "llama-a", tmp_path / "a.png", record=tmp_path / "a.safetensors")
    table = huref.compare([ZOO / "llama-a", tmp_path / "a.safetensors"])
    assert table.pairs[0].similarity.ics == pytest.approx(1.0)
    assert table.labels == ["llama-a", "llama-a #2"]


def test_every_verdict_on_the_zoo_is_right(table: LineageTable) -> None:
    expected = {"siblings": "descends"}  # both come from one training run
    for truth in ("descends", "siblings", "shared initialisation", "unrelated"):
        for a, b, pair in pairs_of(table, truth):
            assert pair.evidence.verdict == expected.get(truth, truth), (a, b, pair.why)


def test_p_values_separate_related_from_unrelated_pairs(table: LineageTable) -> None:
    for a, b, pair in pairs_of(table, "descends", "siblings", "shared initialisation"):
        assert pair.evidence.test == "order", (a, b)
        assert pair.evidence.log10_p is not None
        assert pair.evidence.log10_p < -100, (a, b)
        assert pair.evidence.units is not None
        assert pair.evidence.units.matched > 0.9 * pair.evidence.units.of
    for a, b, pair in pairs_of(table, "unrelated"):
        assert pair.evidence.log10_p is not None
        assert pair.evidence.log10_p > -2, (a, b)


def test_families_are_joined_by_descent(table: LineageTable) -> None:
    names = list(MODELS)
    families = [{names[i] for i in family} for family in table.families]
    assert families[0] == {name for name in names if name.startswith("llama-a")} - {"llama-a-twin"}
    assert sorted(map(len, families)) == [1, 1, 1, 1, 8]


@pytest.mark.slow
def test_an_attack_on_a_child_changes_no_verdict(tmp_path: Path) -> None:
    attack(ZOO / "llama-a-continued", ["all"], tmp_path / "attacked")
    names = ("llama-a", "llama-a-twin", "llama-b")
    table = huref.compare([tmp_path / "attacked", *(ZOO / name for name in names)])
    found = [(pair.evidence.verdict, pair.evidence.test) for pair in table.pairs[:3]]
    assert found[:2] == [("descends", "agreement"), ("shared initialisation", "agreement")]
    assert found[2][0] == "unrelated"


def test_p_values_of_independent_units_are_conservative() -> None:
    """Against the uniform distribution, one-sided: no p-value may be too small too often."""
    torch.manual_seed(0)
    record = open_record(str(ZOO / "llama-b"), cache=True)
    units, barcodes = record.units, record.barcodes
    assert units is not None
    assert barcodes is not None

    def independent() -> Record:
        features = torch.randn(units.features.shape).half()
        numbers = torch.randn(barcodes.numbers.shape).half()
        return replace(
            record,
            units=replace(units, features=features),
            barcodes=replace(barcodes, numbers=numbers),
        )

    found = [compare_units(independent(), independent()) for _ in range(60)]
    found += [compare_barcodes(independent(), independent()) for _ in range(60)]
    values = sorted(10**c.log10_p for c in found if c is not None)
    assert len(values) == 120
    # Kolmogorov and Smirnov, one-sided: exceeded by chance once in 1,000.
    distance = max((i + 1) / len(values) - p for i, p in enumerate(values))
    assert distance < (-0.5 * math.log(0.001) / len(values)) ** 0.5
    assert not any(c.found for c in found if c is not None)


def test_large_tables_compare_units_where_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("llama-a", "llama-a-finetune", "llama-a-twin", "llama-b")
    records = [open_record(str(ZOO / name), cache=True) for name in names]
    exact = {(p.a, p.b): p for p in build_table(records).pairs}
    monkeypatch.setattr("huref.lineage.table.MANY_PAIRS", 0)
    for pair in build_table(records).pairs:
        assert pair.evidence.verdict == exact[pair.a, pair.b].evidence.verdict
        needed = "twin" in pair.b and "llama-b" not in pair.a
        assert (pair.evidence.units is not None) == needed


def test_a_table_gives_each_pair_the_result_of_two_records() -> None:
    names = ("llama-a", "mistral-d", "llama-a-extended", "qwen-c")
    records = [open_record(str(ZOO / name), cache=True) for name in names]
    for (i, j), similarity in compare_all(records).items():
        alone = compare_records(records[i], records[j])
        assert similarity.shared_anchors == alone.shared_anchors
        assert similarity.ics == pytest.approx(alone.ics)
        assert similarity.latent_cosine == pytest.approx(alone.latent_cosine)
