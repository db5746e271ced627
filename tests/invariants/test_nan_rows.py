"""Rows of tokens that never occur may hold anything; those that a fingerprint needs may not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import huref
from huref.errors import WeightsError
from huref.invariants.function_reading import FunctionReading
from huref.loader.checkpoint import open_checkpoint
from huref.recipe import load_recipe
from scripts.evaluate.random_models import make_model


def broken_copy(model: Path, folder: Path, ids: list[int]) -> Path:
    """A copy of a model with NaN in the embeddings of some tokens; its head stays whole."""
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((model / name).read_bytes())
    tensors = load_file(model / "model.safetensors")
    rows = tensors["model.embed_tokens.weight"].clone()
    tensors.setdefault("lm_head.weight", rows.clone())
    rows[ids] = torch.nan
    save_file(tensors | {"model.embed_tokens.weight": rows}, folder / "model.safetensors")
    return folder


def test_rows_that_are_not_anchors_may_hold_nan(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "Llama", groups=4, half_dim=32)
    reading = FunctionReading(open_checkpoint(str(model)), load_recipe()[0], "terms")
    needed = {reading.anchors.ids[i] for i in reading.anchors.filled}
    needed |= set(reading.text.flatten().tolist())
    spare = [number for number in reading.table_ids if number not in needed]
    assert len(spare) > 40
    copy = broken_copy(model, tmp_path / "copy", spare[::7])
    pair = huref.compare([str(model), str(copy)], cache=False).pairs[0]
    assert pair.evidence.verdict == "descends"
    assert pair.similarity.ics == pytest.approx(1, abs=1e-6)
    anchor = broken_copy(model, tmp_path / "anchor", [min(needed)])
    with pytest.raises(WeightsError, match="NaN"):
        huref.fingerprint(str(anchor))
