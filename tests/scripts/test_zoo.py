"""The committed zoo agrees with its manifest, and `scripts.zoo` makes it reproducibly."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.support.zoo import ROOT, ZOO

peft = pytest.importorskip("peft")  # of the `make` extra, as transformers and tokenizers are

from scripts.zoo.copies import COPIES, FORMATS  # noqa: E402
from scripts.zoo.make import make_zoo, replaced  # noqa: E402
from scripts.zoo.manifest import kinship, read_manifest  # noqa: E402
from scripts.zoo.merges import METHODS  # noqa: E402
from scripts.zoo.objectives import OBJECTIVES, corrupt  # noqa: E402
from scripts.zoo.one_model import held_out_windows  # noqa: E402
from scripts.zoo.plan import Plan  # noqa: E402
from scripts.zoo.relations import NARROWED, RELATIONS, load  # noqa: E402
from scripts.zoo.training import mean_loss  # noqa: E402

pytestmark = pytest.mark.slow

CONFIG = yaml.safe_load((ROOT / "configs" / "zoo.yaml").read_text(encoding="utf-8"))
LARGE = yaml.safe_load((ROOT / "configs" / "lineage-zoo.yaml").read_text(encoding="utf-8"))
MODELS = read_manifest(ZOO)["models"]
Tiny = tuple[Path, dict[str, dict[str, Any]]]  # folder and manifest

# A few held-out windows suffice to distinguish 4 nats from 8.
SAMPLE = {**CONFIG, "held_out": {**CONFIG["held_out"], "megabytes": 0.1, "windows": 4}}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, as in making the models."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load_shipped(name: str) -> tuple[Any, Any]:
    folder = ZOO / name
    if not (folder / "adapter_config.json").exists():
        return load(folder)
    adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    model, tokenizer = load(folder / adapter["base_model_name_or_path"])
    return peft.PeftModel.from_pretrained(model, folder), tokenizer


def test_manifest_and_folders_agree() -> None:
    assert list(MODELS) == list(CONFIG["models"])
    assert {path.name for path in ZOO.iterdir()} == {*MODELS, "manifest.json"}
    for name, entry in MODELS.items():
        assert entry["bytes"] == sum(path.stat().st_size for path in (ZOO / name).iterdir())
        assert entry["recipe"] == Plan(name, CONFIG, ZOO).recipe(), f"{name} must be remade"
    assert sum(entry["bytes"] for entry in MODELS.values()) < 24e6


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_learned_its_language(name: str) -> None:
    model, tokenizer = load_shipped(name)
    held_out = held_out_windows(Plan(name, SAMPLE, ZOO), tokenizer)
    guessing = math.log(len(tokenizer))  # the loss of an untrained model is at least this
    for windows in held_out.values():
        assert mean_loss(model, windows) < guessing - 2


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_published_float16(name: str) -> None:
    shards = sorted((ZOO / name).glob("*.safetensors"))
    assert len(shards) == (2 if name == "mistral-d" else 1)
    assert (ZOO / name / "model.safetensors.index.json").exists() == (len(shards) > 1)
    for shard in shards:
        with safe_open(shard, "pt") as tensors:
            assert {tensors.get_slice(key).get_dtype() for key in tensors.keys()} == {"F16"}  # noqa: SIM118


def test_bases_started_untrained() -> None:
    bases = [entry for entry in MODELS.values() if entry["relation"] == "base"]
    assert len(bases) == 5
    for entry in bases:
        for loss in entry["held_out_loss"].values():
            assert loss["before"] > math.log(4096)


def test_the_light_finetune_learned_its_own_text() -> None:
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
def test_kinship_to_the_first_base(other: str, truth: str) -> None:
    assert kinship(MODELS, "llama-a", other) == kinship(MODELS, other, "llama-a") == truth


def test_kinship_between_children() -> None:
    assert kinship(MODELS, "llama-a-finetune", "llama-a-continued") == "siblings"
    assert kinship(MODELS, "llama-a-finetune-2", "llama-a-merge") == "descends"
    assert kinship(MODELS, "llama-a-finetune", "llama-a-twin") == "shared initialisation"


def test_the_twin_has_no_parents_and_other_weights() -> None:
    assert MODELS["llama-a-twin"]["parents"] == []
    twin, base = (
        load_file(ZOO / name / "model.safetensors") for name in ("llama-a-twin", "llama-a")
    )
    query = "model.layers.1.self_attn.q_proj.weight"
    assert not twin[query].equal(base[query])


def test_extension_keeps_ids() -> None:
    _, before = load(ZOO / "llama-a")
    _, after = load(ZOO / "llama-a-extended")
    old, new = before.get_vocab(), after.get_vocab()
    assert {token: new[token] for token in old} == old
    added = [after.decode([index]) for index in range(len(old), len(new))]
    assert len(added) == 512
    assert sum(text.isascii() for text in added) == 256


def make_tiny(out: Path, hash_seed: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.zoo", "make", "--tiny", "--out", str(out)]
    return subprocess.run(
        [*command, "--only", "llama-a-lora", "llama-a-extended", "mistral-d"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        check=True,
        capture_output=True,
        text=True,
    )


def test_a_second_run_continues_and_gives_the_same_bytes(tmp_path: Path) -> None:
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
    for path in files - {Path("manifest.json")}:  # which has the times
        assert (first / path).read_bytes() == (second / path).read_bytes(), path


# --- The larger zoo, of which only the config is committed ---------------------------------------


def test_the_larger_zoo_has_the_models_that_the_evaluation_needs() -> None:
    models = LARGE["models"]
    bases = [m for m in models.values() if m["relation"] == "base" and m.get("role") is None]
    classes = {LARGE["architectures"][m["architecture"]]["class"] for m in bases}
    draws = {(m["architecture"], m["seed"]) for m in bases}
    descendants = [m for m in models.values() if m.get("parents")]
    assert len(draws) >= 12
    assert len(draws) < len(bases)  # some share an initialisation
    assert len(classes) >= 4
    assert len(descendants) >= 60
    assert {m["relation"] for m in models.values()} == {*RELATIONS, *COPIES}
    assert {m["objective"] for m in models.values() if "objective" in m} < {*OBJECTIVES}
    assert {m["format"] for m in models.values() if "format" in m} == {*FORMATS}
    assert {m["narrowed"] for m in models.values() if "narrowed" in m} == {*NARROWED}
    assert {m["method"] for m in models.values() if "method" in m} == {*METHODS}


SAMPLES = [
    "llama-1-dpo", "llama-1-lora-merged", "llama-1-student", "llama-1-nf4", "llama-1-gptq",
    "llama-1-q4_0", "llama-1-latin", "llama-1-other-bytes", "llama-1-experts-trained",
    "llama-1-upscaled", "llama-1-units", "llama-1-groups-healed", "llama-1-width",
    "llama-spliced", "llama-1-slerp", "llama-1-rotation", "gpt2-1-mean-shift",
]  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    pytest.importorskip("bitsandbytes")
    out = tmp_path_factory.mktemp("large")
    config = replaced(LARGE, LARGE["tiny"])
    make_zoo(config, out, SAMPLES, jobs=1)
    return out, read_manifest(out)["models"]


def weights(zoo: Path, name: str) -> dict[str, Tensor]:
    return load_file(zoo / name / "model.safetensors")


def block_of(state: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    start = f"model.layers.{index}."
    return {key.removeprefix(start): t for key, t in state.items() if key.startswith(start)}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


def test_every_relation_makes_a_model(tiny: Tiny) -> None:
    out, models = tiny
    assert {*SAMPLES} < {*models}
    for name in models:
        assert (out / name).is_dir()


@pytest.mark.parametrize("name", ["llama-1-rotation", "gpt2-1-mean-shift"])
def test_an_attack_preserves_the_loss(tiny: Tiny, name: str) -> None:
    _, models = tiny
    for loss in models[name]["held_out_loss"].values():
        assert loss["after"] == pytest.approx(loss["before"], abs=0.02)


@pytest.mark.parametrize("name", ["llama-1-nf4", "llama-1-gptq", "llama-1-q4_0"])
def test_four_bit_weights_approximate_the_parents(tiny: Tiny, name: str) -> None:
    from huref.loader.checkpoint import open_checkpoint

    out, _ = tiny
    path = out / name / "model.gguf" if name.endswith("q4_0") else out / name
    read = open_checkpoint(str(path)).read(["model.layers.2.self_attn.q_proj.weight"])
    found = read["model.layers.2.self_attn.q_proj.weight"].float()
    exact = weights(out, "llama-1")["model.layers.2.self_attn.q_proj.weight"].float()
    assert 0.005 < (found - exact).norm() / exact.norm() < 0.15


def test_stacked_blocks_equal_the_parents(tiny: Tiny) -> None:
    out, _ = tiny
    parent, stacked = (weights(out, name) for name in ("llama-1", "llama-1-upscaled"))
    for place, source in enumerate([0, 1, 2, 3, 1, 2, 3, 4]):
        assert same(block_of(stacked, place), block_of(parent, source))


def test_kept_units_are_in_order(tiny: Tiny) -> None:
    out, models = tiny
    key = "model.layers.1.mlp.up_proj.weight"
    parent, child = (weights(out, name)[key] for name in ("llama-1", "llama-1-units"))
    rows = [int((parent == row).all(1).nonzero()) for row in child]
    assert len(child) == 0.75 * len(parent)
    assert rows == sorted(rows)
    assert models["llama-1-width"]["architecture"] == "LlamaForCausalLM"


def test_a_replaced_vocabulary_has_other_embeddings_and_frozen_steps(tiny: Tiny) -> None:
    out, models = tiny
    assert len(weights(out, "llama-1-other-bytes")["model.embed_tokens.weight"]) > 300
    assert models["llama-1-other-bytes"]["steps"] == 6  # 2 of them with frozen blocks


def test_a_student_is_no_descendant(tiny: Tiny) -> None:
    _, models = tiny
    assert kinship(models, "llama-1", "llama-1-student") == "distilled"
    assert kinship(models, "llama-1-dpo", "llama-1-student") == "distilled"
    assert kinship(models, "llama-2", "llama-1-student") == "unrelated"
    assert kinship(models, "llama-2", "llama-spliced") == "descends"
    assert kinship(models, "llama-1-latin", "llama-spliced") == "siblings"


def test_merges_at_known_shares() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, base = ({"w": torch.randn(6, 5, generator=generator)} for _ in range(3))
    linear, slerp, ties = (METHODS[name] for name in ("linear", "slerp", "ties"))
    assert torch.allclose(linear([a, b], [0.25, 0.75], base)["w"], 0.25 * a["w"] + 0.75 * b["w"])
    assert torch.allclose(slerp([a, b], [1.0, 0.0], base)["w"], a["w"], atol=1e-6)
    unit = [{"w": state["w"] / state["w"].norm()} for state in (a, b)]
    assert slerp(unit, [0.5, 0.5], base)["w"].norm() == pytest.approx(1, abs=1e-5)
    change = ties([a, a], [0.5, 0.5], base)["w"] - base["w"]
    assert int((change != 0).sum()) == 15 + 1  # the larger half, including its smallest member
    kept = change != 0
    assert torch.allclose(change[kept], (a["w"] - base["w"])[kept], atol=1e-6)


def test_ties_drops_changes_of_the_other_sign() -> None:
    zero = {"w": torch.zeros(4)}
    a, b = {"w": torch.tensor([2.0, 2.0, 3.0, 0.1])}, {"w": torch.tensor([2.0, -1.9, 3.0, 0.1])}
    merged = METHODS["ties"]([a, b], [0.5, 0.5], zero)["w"]
    assert torch.allclose(merged, torch.tensor([2.0, 2.0, 3.0, 0.0]))


def test_rejected_texts_differ_in_some_tokens() -> None:
    tokens = torch.arange(4 * 500).reshape(4, 500)
    changed = corrupt(tokens, torch.Generator().manual_seed(0)) != tokens
    assert 0.10 < changed.float().mean() < 0.20
