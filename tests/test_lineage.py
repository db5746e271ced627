"""What the tables say of the zoo, whose lineage is known."""

from itertools import combinations
from pathlib import Path

import pytest
from conftest import ZOO
from zoo.manifest import kinship, read_manifest

import huref
from huref.lineage.table import LineageTable, Pair
from huref.output import FORMATS

MODELS = read_manifest(ZOO)["models"]


@pytest.fixture(scope="module")
def table() -> LineageTable:
    return huref.compare([ZOO / name for name in MODELS])


def pairs_of(table: LineageTable, *truths: str) -> list[tuple[str, str, Pair]]:
    named = zip(combinations(MODELS, 2), table.pairs, strict=True)
    return [(a, b, pair) for (a, b), pair in named if kinship(MODELS, a, b) in truths]


def test_every_kind_of_relation_is_in_the_zoo(table: LineageTable) -> None:
    for truth in ("descends", "siblings", "shared initialisation", "unrelated"):
        assert pairs_of(table, truth), truth


def test_families_and_strangers_are_far_apart(table: LineageTable) -> None:
    kin = [p.similarity.ics for _, _, p in pairs_of(table, "descends", "siblings")]
    strangers = [p.similarity.ics for _, _, p in pairs_of(table, "unrelated")]
    shared = [p.similarity.ics for _, _, p in pairs_of(table, "shared initialisation")]
    assert min(kin) > 0.7
    assert max(map(abs, strangers)) < 0.05
    assert all(0.1 < ics < 0.5 for ics in shared)


def test_latents_show_what_the_terms_say(table: LineageTable) -> None:
    for a, b, pair in pairs_of(table, "unrelated"):
        assert abs(pair.similarity.latent_cosine) < 0.2, (a, b)
    for a, b, pair in pairs_of(table, "descends", "siblings"):
        cosine, ics = pair.similarity.latent_cosine, pair.similarity.ics
        assert cosine > 0.9, (a, b)
        assert abs(cosine - ics) < 0.05, (a, b)


def test_an_extended_vocabulary_keeps_nearly_all_anchors(table: LineageTable) -> None:
    shared = {(a, b): p.similarity.shared_anchors for a, b, p in pairs_of(table, "descends")}
    assert shared["llama-a", "llama-a-extended"] > 480


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
