"""The zoo that ships is what its manifest says, and the script that made it does so again."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

peft = pytest.importorskip("peft")  # of the `make` extra, as transformers and tokenizers are

from zoo.making import held_out_windows  # noqa: E402
from zoo.manifest import kinship, read_manifest  # noqa: E402
from zoo.order import Order  # noqa: E402
from zoo.relations import load  # noqa: E402
from zoo.training import mean_loss  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
ZOO = ROOT / "checkpoints" / "zoo"
CONFIG = yaml.safe_load((ROOT / "configs" / "zoo.yaml").read_text(encoding="utf-8"))
MODELS = read_manifest(ZOO)["models"]

# A few windows of text that no model was trained on are enough to tell 4 nats from 8.
SAMPLE = {**CONFIG, "held_out": {**CONFIG["held_out"], "megabytes": 0.1, "windows": 4}}


@pytest.fixture(autouse=True)
def one_thread():
    """As the models were made; on a busy machine a second thread costs more than it gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load_shipped(name):
    folder = ZOO / name
    if not (folder / "adapter_config.json").exists():
        return load(folder)
    adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    model, tokenizer = load(folder / adapter["base_model_name_or_path"])
    return peft.PeftModel.from_pretrained(model, folder), tokenizer


def test_manifest_and_folders_agree():
    assert list(MODELS) == list(CONFIG["models"])
    assert {path.name for path in ZOO.iterdir()} == {*MODELS, "manifest.json"}
    for name, entry in MODELS.items():
        assert entry["bytes"] == sum(path.stat().st_size for path in (ZOO / name).iterdir())
        assert entry["recipe"] == Order(name, CONFIG, ZOO).recipe(), f"{name} must be made again"
    assert sum(entry["bytes"] for entry in MODELS.values()) < 24e6


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_learned_its_language(name):
    model, tokenizer = load_shipped(name)
    held_out = held_out_windows(Order(name, SAMPLE, ZOO), tokenizer)
    guessing = math.log(len(tokenizer))  # an untrained model's loss is this or more
    for windows in held_out.values():
        assert mean_loss(model, windows) < guessing - 2


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_published_float16(name):
    shards = sorted((ZOO / name).glob("*.safetensors"))
    assert len(shards) == (2 if name == "mistral-d" else 1)
    assert (ZOO / name / "model.safetensors.index.json").exists() == (len(shards) > 1)
    for shard in shards:
        with safe_open(shard, "pt") as tensors:
            assert {tensors.get_slice(key).get_dtype() for key in tensors.keys()} == {"F16"}  # noqa: SIM118


def test_bases_began_untrained():
    bases = [entry for entry in MODELS.values() if entry["relation"] == "base"]
    assert len(bases) == 5
    for entry in bases:
        for loss in entry["held_out_loss"].values():
            assert loss["before"] > math.log(4096)


def test_the_light_finetune_learned_its_own_text():
    loss = MODELS["llama-a-finetune"]["held_out_loss"]["prose"]
    assert loss["after"] < loss["before"]


@pytest.mark.parametrize(
    ("other", "truth"),
    [
        ("llama-a-finetune", "descends"),
        ("llama-a-merge", "descends"),
        ("llama-a-twin", "shared initialisation"),
        ("llama-b", "unrelated"),
        ("qwen-c", "unrelated"),
        ("mistral-d", "unrelated"),
    ],
)
def test_kinship_to_the_first_base(other, truth):
    assert kinship(MODELS, "llama-a", other) == kinship(MODELS, other, "llama-a") == truth


def test_kinship_between_children():
    assert kinship(MODELS, "llama-a-finetune", "llama-a-continued") == "siblings"
    assert kinship(MODELS, "llama-a-finetune-2", "llama-a-merge") == "descends"
    assert kinship(MODELS, "llama-a-finetune", "llama-a-twin") == "shared initialisation"


def test_the_twin_descends_from_nobody_and_has_weights_of_its_own():
    assert MODELS["llama-a-twin"]["parents"] == []
    twin, base = (
        load_file(ZOO / name / "model.safetensors") for name in ("llama-a-twin", "llama-a")
    )
    query = "model.layers.1.self_attn.q_proj.weight"
    assert not twin[query].equal(base[query])


def test_extension_renumbers_nothing():
    _, before = load(ZOO / "llama-a")
    _, after = load(ZOO / "llama-a-extended")
    old, new = before.get_vocab(), after.get_vocab()
    assert {token: new[token] for token in old} == old
    added = [after.decode([index]) for index in range(len(old), len(new))]
    assert len(added) == 512
    assert sum(text.isascii() for text in added) == 256


def make_tiny(out, hash_seed):
    command = [sys.executable, str(ROOT / "scripts" / "make_zoo.py"), "--tiny", "--out", str(out)]
    return subprocess.run(
        [*command, "--only", "llama-a-lora", "llama-a-extended", "mistral-d"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        check=True,
        capture_output=True,
        text=True,
    )


def test_a_second_run_goes_on_and_gives_the_same_bytes(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    make_tiny(first, "1")
    shutil.copytree(first, second)
    for name in ("llama-a-lora", "llama-a-extended", "mistral-d"):
        shutil.rmtree(second / name)
    weights = second / "llama-a" / "model.safetensors"
    before = weights.stat().st_mtime_ns

    assert "1 of 4 models are made" in make_tiny(second, "2").stderr

    assert weights.stat().st_mtime_ns == before
    files = {path.relative_to(first) for path in first.rglob("*") if path.is_file()}
    assert files == {path.relative_to(second) for path in second.rglob("*") if path.is_file()}
    for path in files - {Path("manifest.json")}:  # which holds the seconds it took
        assert (first / path).read_bytes() == (second / path).read_bytes(), path
