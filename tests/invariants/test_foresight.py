"""Whether a model's first blocks know its own tokenizer: what comes next in a text."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import huref
from huref.api.open import open_record
from huref.attacks import attack
from huref.invariants.function_reading import FunctionReading
from huref.invariants.signs import FORESIGHT
from huref.loader.checkpoint import open_checkpoint
from huref.recipe import load_recipe
from tests.support.zoo import ZOO

MODELS = sorted(path.name for path in ZOO.iterdir() if path.is_dir())


def foresight_of(folder: Path) -> float:
    reading = FunctionReading(open_checkpoint(str(folder)), load_recipe()[0], "terms")
    reading.extract()
    assert reading.signs.foresight is not None
    return reading.signs.foresight


def signs_of(folder: Path) -> list[str]:
    record = open_record(str(folder))
    assert record.function is not None
    return [sign.kind for sign in record.function.signs]


@pytest.mark.parametrize("name", MODELS)
def test_trained_models_foresee_something_in_their_first_blocks(name: str) -> None:
    assert foresight_of(ZOO / name) > FORESIGHT
    assert "tokenizer does not fit" not in signs_of(ZOO / name)


def test_words_that_were_renumbered_with_all_their_spellings_are_a_sign(tmp_path: Path) -> None:
    """Embeddings of one word's spellings stay alike, so that these alone show nothing."""
    attack(ZOO / "llama-a", ["renumbered-words"], tmp_path / "copy", 3)
    assert foresight_of(tmp_path / "copy") < FORESIGHT
    assert "tokenizer does not fit" in signs_of(tmp_path / "copy")


def test_it_is_about_normal_where_strings_and_rows_are_paired_at_random(tmp_path: Path) -> None:
    found = []
    for seed in range(8):
        attack(ZOO / "llama-a", ["renumbered-strings"], tmp_path / str(seed), seed)
        found.append(foresight_of(tmp_path / str(seed)))
    values = torch.tensor(found)
    assert float(values.abs().max()) < 4
    assert float(values.mean().abs()) < 1.5
    assert float(values.square().mean()) < 3


def test_a_copy_with_other_blocks_where_huref_reads_is_read_on(tmp_path: Path) -> None:
    """Neither strings, units nor terms of the blocks that are read show it; the sign does."""
    kinds = ["ffn-permutation", "head-permutation", "renumbered-words"]
    attack(ZOO / "llama-a", kinds, tmp_path / "copy", 3)
    path = next((tmp_path / "copy").glob("*.safetensors"))
    tensors, others = load_file(path), load_file(next((ZOO / "llama-b").glob("*.safetensors")))
    read = ("model.layers.1.", "model.layers.2.")
    tensors |= {name: others[name] for name in tensors if name.startswith(read)}
    save_file(tensors, path, {"format": "pt"})
    pair = huref.compare([str(ZOO / "llama-a"), str(tmp_path / "copy")], cache=False).pairs[0]
    assert pair.evidence.verdict in ("descends", "contains parts"), pair.why
    assert pair.evidence.layer_map is not None
    assert pair.evidence.layer_map.source == (0, None, None, 3, 4)
