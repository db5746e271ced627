"""Which block comes from which, on models of known construction."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import huref
from huref.api.open import open_record
from huref.attacks import attack
from huref.invariants.record import Record
from huref.invariants.unit_features import UnitFeatures
from huref.lineage.evidence import LayerMap
from huref.lineage.layer_map import map_layers
from huref.lineage.table import build_table
from tests.support.zoo import ZOO


def full(model: Path) -> UnitFeatures:
    units = open_record(str(model), depth="full", cache=True).units
    assert units is not None
    return units


@pytest.fixture(scope="module")
def parent() -> UnitFeatures:
    return full(ZOO / "llama-a")


@pytest.fixture(scope="module")
def stranger() -> UnitFeatures:
    return full(ZOO / "llama-b")


def stacked(*parts: tuple[UnitFeatures, int]) -> UnitFeatures:
    """A model whose blocks are other models' blocks."""
    networks = torch.stack([units.networks[i] for units, i in parts])
    networks[:, 0] = torch.arange(len(parts))
    return UnitFeatures(
        torch.cat([units.of_network(i) for units, i in parts]),
        torch.stack([units.scales[i] for units, i in parts]),
        networks,
    )


def test_a_dropped_layer_shows() -> None:
    pair = huref.compare([ZOO / "llama-a", ZOO / "llama-a-pruned"], depth="full").pairs[0]
    found = pair.evidence.layer_map
    assert found is not None
    assert found.source == (0, 1, 2, 4)
    assert found.share.shape == (5, 4)
    assert found.share[3].max() < 0.1
    assert found.pairs == ((0, 0), (1, 1), (2, 2), (4, 3))


def test_stacking_and_splicing_show(parent: UnitFeatures, stranger: UnitFeatures) -> None:
    upscaled = stacked(*[(parent, i) for i in (0, 1, 2, 1, 2, 3, 4)])
    assert map_layers(parent, upscaled).source == (0, 1, 2, 1, 2, 3, 4)
    spliced = stacked(*[(parent, i) for i in (0, 1)], *[(stranger, i) for i in (2, 3, 4)])
    assert map_layers(parent, spliced).source == (0, 1, None, None, None)
    assert map_layers(stranger, spliced).source == (None, None, 2, 3, 4)


def test_blocks_outside_the_recipes_layers_show_a_relation(tmp_path: Path) -> None:
    """Only the last blocks come from llama-a; the recipe's own come from llama-b."""
    a, b = (open_record(str(ZOO / n), depth="full", cache=True) for n in ("llama-a", "llama-b"))
    assert a.units is not None
    assert b.units is not None
    parts = [(b.units, i) for i in (0, 1, 2)] + [(a.units, i) for i in (3, 4)]
    spliced = replace(b, model="spliced", units=stacked(*parts))
    pair = build_table([a, spliced]).pairs[0]
    assert pair.evidence.log10_p is not None
    assert pair.evidence.log10_p < -100
    assert pair.evidence.units is not None
    assert pair.evidence.units.layer in (3, 4)
    assert pair.evidence.verdict == "contains parts"


@pytest.fixture(scope="module")
def spliced(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """llama-a with the last two blocks of llama-b, a stranger, under llama-a's embeddings."""
    return open_record(
        str(splice(tmp_path_factory.mktemp("splice") / "spliced", (3, 4))), depth="full"
    )


def splice(folder: Path, blocks: Sequence[int]) -> Path:
    """llama-a with some blocks of llama-b."""
    shutil.copytree(ZOO / "llama-a", folder)
    [file] = folder.glob("*.safetensors")
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors, grafted = load_file(file), load_file(ZOO / "llama-b" / file.name)
    wanted = tuple(f"model.layers.{block}." for block in blocks)
    from_b = {n: t for n, t in grafted.items() if n.startswith(wanted)}
    assert len(from_b) == 9 * len(blocks)
    save_file(tensors | from_b, file, metadata)
    return folder


def test_a_splice_of_independent_parents_shows_both(spliced: Record) -> None:
    """Token features of a block depend on embeddings, its barcodes do not."""
    names = ("llama-a", "llama-b", "mistral-d", "llama-a-twin")
    others = [open_record(str(ZOO / name), depth="full", cache=True) for name in names]
    pairs = [build_table([other, spliced]).pairs[0] for other in others]
    maps = [pair.evidence.layer_map for pair in pairs]
    sources = [found.source for found in maps if found is not None]
    none = (None,) * 5
    assert sources == [(0, 1, 2, None, None), (None, None, None, 3, 4), none, (0, 1, 2, None, None)]
    verdicts = [pair.evidence.verdict for pair in pairs]
    assert verdicts == ["descends", "contains parts", "unrelated", "shared initialisation"]
    assert "barcodes" in pairs[1].why
    assert pairs[1].to_json()["blocks"] == [None, None, None, 3, 4]
    halves = "; 2 of 5 blocks of the first model and 2 of 5 of the second have no counterpart"
    assert halves in pairs[0].why
    assert pairs[1].why.endswith(halves.replace("2 of", "3 of"))


def test_a_splice_between_the_compared_blocks_suggests_full_depth(tmp_path: Path) -> None:
    path = splice(tmp_path / "spliced", (2, 3, 4))
    parents = [ZOO / "llama-a", ZOO / "llama-b"]
    for parent in parents:
        for models in ([parent, path], [path, parent]):
            [pair] = huref.compare(models).pairs
            advice = "no hidden unit corresponds in 1 of 2 compared blocks, --depth full"
            if parent is parents[0]:
                assert pair.evidence.verdict == "descends"
                assert advice in pair.why
            else:
                assert "--depth full" in pair.why


@pytest.mark.parametrize("child", ["llama-a-finetune", "llama-a-twin", "llama-a-pruned"])
def test_relatives_without_a_splice_get_no_such_clause(child: str) -> None:
    a, b = (open_record(str(ZOO / name), depth="full", cache=True) for name in ("llama-a", child))
    assert "counterpart" not in build_table([a, b]).pairs[0].why
    if child != "llama-a-pruned":
        assert "--depth" not in huref.compare([ZOO / "llama-a", ZOO / child]).pairs[0].why


def test_unrelated_names_the_number_of_compared_blocks() -> None:
    pair = huref.compare([ZOO / "llama-a", ZOO / "llama-b"]).pairs[0]
    assert pair.evidence.verdict == "unrelated"
    assert pair.why.endswith("; 2 of 5 blocks were compared, --depth full compares all")


def test_width_pruning_and_permutation_do_not_hide_it(parent: UnitFeatures) -> None:
    torch.manual_seed(0)
    kept = torch.randperm(192)[:150].sort().values
    narrow = UnitFeatures(
        torch.cat([parent.of_network(i)[kept] for i in range(5)]),
        parent.scales,
        parent.networks * torch.tensor([1, 1, 0], dtype=torch.int32)
        + torch.tensor([0, 0, 150], dtype=torch.int32),
    )
    assert map_layers(parent, narrow).source == (0, 1, 2, 3, 4)
    shuffled = UnitFeatures(
        torch.cat([parent.of_network(i)[torch.randperm(192)] for i in range(5)]),
        parent.scales,
        parent.networks,
    )
    assert map_layers(parent, shuffled).source == (0, 1, 2, 3, 4)


def test_no_block_comes_from_an_unrelated_model(
    parent: UnitFeatures, stranger: UnitFeatures
) -> None:
    assert map_layers(parent, stranger).source == (None,) * 5
    assert map_layers(parent, full(ZOO / "mistral-d")).source == (None,) * 5


def test_idle_blocks_have_no_source(parent: UnitFeatures, tmp_path: Path) -> None:
    attack(ZOO / "llama-a", ["no-op-layers", "ffn-permutation"], tmp_path / "attacked")
    found: LayerMap = map_layers(parent, full(tmp_path / "attacked"))
    assert len(found.source) == 8
    assert [source for source in found.source if source is not None] == [0, 1, 2, 3, 4]
