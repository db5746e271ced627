"""A config that leaves out what transformers fills in is read as transformers reads it."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from transformers import CONFIG_MAPPING

from huref.api.open import open_record
from huref.architecture.complete_config import DEFAULTS
from huref.lineage.similarity import compare_records
from tests.support.zoo import ZOO

KNOWN = yaml.safe_load(DEFAULTS.read_text("utf-8"))


@pytest.mark.parametrize("model_type", KNOWN)
def test_defaults_are_those_of_transformers(model_type: str) -> None:
    theirs = CONFIG_MAPPING[model_type]().to_dict()
    theirs = {**(theirs.get("rope_parameters") or {}), **theirs}
    assert {key: theirs[key] for key in KNOWN[model_type]} == KNOWN[model_type]


def test_blocks_are_counted_where_the_config_does_not(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ZOO / "llama-a", copy)
    config = json.loads((copy / "config.json").read_text())
    for key in ("num_hidden_layers", "vocab_size", "hidden_size", "intermediate_size"):
        del config[key]
    (copy / "config.json").write_text(json.dumps(config))
    assert compare_records(*map(open_record, (str(ZOO / "llama-a"), str(copy)))).ics == (
        pytest.approx(1.0)
    )


def test_heads_are_the_defaults_where_the_config_names_none(tmp_path: Path) -> None:
    """Llama's default is 32 heads: here of 4 numbers each."""
    whole, short = tmp_path / "whole", tmp_path / "short"
    for folder in (whole, short):
        shutil.copytree(ZOO / "llama-a", folder)
    config = json.loads((whole / "config.json").read_text())
    config |= {"num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 4}
    (whole / "config.json").write_text(json.dumps(config))
    del config["num_attention_heads"]
    (short / "config.json").write_text(json.dumps(config))
    assert compare_records(*map(open_record, (str(whole), str(short)))).ics == pytest.approx(1.0)
