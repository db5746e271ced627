"""The cache of records: no weights are read twice, and changed models are read again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import huref
from huref.api.cache import cache_folder
from huref.api.open import measure
from tests.support.hub_server import LoopbackHub
from tests.support.zoo import ZOO


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HUREF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ZOO / "llama-b", tmp_path / "model"))


def bytes_of_weights(folder: Path) -> int:
    costs = measure(str(folder), cache=True)[1]
    small = sum(p.stat().st_size for p in folder.iterdir() if p.suffix == ".json")
    return max(costs.bytes_read - small, 0)


def test_a_second_measurement_reads_no_weights(model: Path) -> None:
    first = measure(str(model), cache=True)[0]
    assert len(list(cache_folder().iterdir())) == 1
    assert bytes_of_weights(model) == 0
    again = measure(str(model), cache=True)[0]
    assert first.terms is not None
    assert again.terms is not None
    assert torch.equal(again.terms, first.terms)
    assert again.traits == first.traits


def test_a_cached_record_has_the_requested_name(model: Path, tmp_path: Path) -> None:
    measure(str(model), cache=True)
    link = tmp_path / "other-name"
    link.symlink_to(model)
    record, _ = measure(str(link), cache=True)
    assert record.model == str(link)
    assert len(list(cache_folder().iterdir())) == 1


def test_changed_weights_are_read_again(model: Path) -> None:
    first = measure(str(model), cache=True)[0]
    weights = load_file(model / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file(weights | {name: -weights[name]}, model / "model.safetensors", {"format": "pt"})
    changed = measure(str(model), cache=True)[0]
    assert first.terms is not None
    assert changed.terms is not None
    assert not torch.equal(changed.terms, first.terms)


def test_each_depth_has_its_own_record(model: Path) -> None:
    measure(str(model), cache=True)
    full = measure(str(model), depth="full", cache=True)[0]
    assert full.units is not None
    assert full.units.layers == (0, 1, 2, 3, 4)
    assert len(list(cache_folder().iterdir())) == 2


def test_a_damaged_entry_is_made_again(model: Path) -> None:
    first = measure(str(model), cache=True)[0]
    (entry,) = cache_folder().iterdir()
    entry.write_bytes(b"nonsense")
    again = measure(str(model), cache=True)[0]
    assert first.terms is not None
    assert again.terms is not None
    assert torch.equal(again.terms, first.terms)
    assert entry.stat().st_size > 1000


def test_an_unwritable_home_disables_the_cache(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HUREF_HOME", str(tmp_path / "file"))
    assert measure(str(model), cache=True)[0].terms is not None


def test_cached_records_are_readable_by_their_owner_only(model: Path) -> None:
    measure(str(model), cache=True)
    assert cache_folder().stat().st_mode & 0o077 == 0


def test_compare_caches_records_by_default(model: Path) -> None:
    huref.compare([model, ZOO / "llama-b"], cache=False)
    assert not cache_folder().exists()
    table = huref.compare([model, ZOO / "llama-b"])
    assert table.pairs[0].evidence.verdict == "descends"
    assert len(list(cache_folder().iterdir())) == 2


def test_a_commit_of_the_hub_is_read_once(
    hub: LoopbackHub, make_llama: Callable[..., Path]
) -> None:
    hub.add("org/model", make_llama("local"))
    measure("org/model", cache=True)
    before = hub.bytes_sent
    again, costs = measure("org/model", cache=True)
    assert hub.bytes_sent - before < costs.bytes_total / 10
    assert again.revision is not None
