"""Which of two relatives came first, where a change shows it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from huref.api.open import open_record
from huref.attacks import attack
from huref.invariants.record import Record
from huref.invariants.traits import count_levels
from huref.lineage.evidence import Direction
from huref.lineage.table import build_table
from tests.support.zoo import ZOO


def full(path: Path) -> Record:
    return open_record(str(path), depth="full", cache=True)


@pytest.fixture(scope="module")
def parent() -> Record:
    return full(ZOO / "llama-a")


def direction(a: Record, b: Record) -> Direction | None:
    """The direction of a pair; the order of the two models must not change the result."""
    forward, backward = (build_table(pair).pairs[0].evidence.direction for pair in ((a, b), (b, a)))
    if forward is None or backward is None:
        assert forward is backward
    else:
        assert {forward.older, backward.older} == {"a", "b"}
    return forward


@pytest.mark.parametrize(
    ("child", "why"),
    [
        ("llama-a-extended", "512 more tokens"),
        ("llama-a-pruned", "blocks of a that are missing in b: 1"),
    ],
)
def test_children_of_the_zoo(parent: Record, child: str, why: str) -> None:
    found = direction(parent, full(ZOO / child))
    assert found is not None
    assert found.older == "a"
    assert why in found.why


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("upcycling", "the experts of b come from one network of a"),
        ("no-op-layers", "blocks of b that write nothing: 3"),
        ("layer-duplication", "blocks of a that b repeats: 1"),
        ("vocabulary-extension", "more tokens"),
    ],
)
def test_copies_that_were_changed(parent: Record, tmp_path: Path, kind: str, why: str) -> None:
    attack(ZOO / "llama-a", [kind], tmp_path / "copy")
    found = direction(parent, full(tmp_path / "copy"))
    assert found is not None
    assert found.older == "a"
    assert why in found.why


@pytest.mark.parametrize("kind", ["padded", "widened"])
def test_a_network_that_was_padded_or_widened_is_younger(
    parent: Record, tmp_path: Path, kind: str
) -> None:
    copy = Path(shutil.copytree(ZOO / "llama-a", tmp_path / "copy"))
    tensors = load_file(copy / "model.safetensors")
    for name, weight in tensors.items():
        if "mlp" not in name:
            continue
        rows = weight.T if "down" in name else weight.clone()  # (units, d)
        if kind == "padded":
            rows = torch.cat([rows, torch.zeros(64, rows.shape[1], dtype=rows.dtype)])
        else:
            rows[:64] *= 0.5 if "down" in name else 1.0
            rows = torch.cat([rows, rows[:64]])
        tensors[name] = (rows.T if "down" in name else rows).contiguous()
        units = len(rows)
    save_file(tensors, copy / "model.safetensors")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"intermediate_size": units}))
    found = direction(parent, full(copy))
    assert found is not None
    assert found.older == "a"
    assert "zero or copies" in found.why


def damage(source: Path, copy: Path, change: Callable[[Tensor], Tensor]) -> Record:
    """A copy whose matrices, embeddings aside, were changed."""
    shutil.copytree(source, copy)
    tensors = load_file(copy / "model.safetensors")
    changed = {
        name: change(weight.float()).to(weight.dtype).contiguous() if "proj" in name else weight
        for name, weight in tensors.items()
    }
    save_file(changed, copy / "model.safetensors")
    return full(copy)


def test_noise_and_coarse_weights_leave_the_verdict_and_name_no_wrong_parent(
    parent: Record, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    noisy = damage(ZOO / "llama-a", tmp_path / "n", lambda w: w + w.std() * torch.randn_like(w) / 2)
    ternary = damage(
        ZOO / "llama-a", tmp_path / "t", lambda w: (w / w.abs().mean()).round().clip(-1, 1)
    )
    for copy in (noisy, ternary):
        assert build_table((parent, copy)).pairs[0].evidence.verdict == "descends"
    assert direction(parent, noisy) is None
    coarse = direction(parent, ternary)
    assert coarse is not None
    assert coarse.older == "a"


def test_a_twin_of_an_eighth_of_its_rank_is_no_descendant(parent: Record, tmp_path: Path) -> None:
    def lower_rank(weight: Tensor) -> Tensor:
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        rank = len(s) // 8
        lower: Tensor = u[:, :rank] * s[:rank] @ v[:rank]
        return lower

    twin = damage(ZOO / "llama-a-twin", tmp_path / "twin", lower_rank)
    evidence = build_table((parent, twin)).pairs[0].evidence
    assert evidence.verdict == "inconclusive"
    assert "too damaged" in evidence.why
    assert evidence.direction is None


def test_without_a_sign_there_is_no_direction(parent: Record, tmp_path: Path) -> None:
    attack(ZOO / "llama-a", ["rotation", "head-maps", "ffn-scaling"], tmp_path / "copy")
    assert direction(parent, full(tmp_path / "copy")) is None
    assert direction(parent, full(ZOO / "llama-a-twin")) is None
    assert direction(full(ZOO / "llama-a-pruned"), full(ZOO / "llama-b")) is None


def test_a_parent_lacks_what_its_child_learned(parent: Record) -> None:
    found = direction(parent, full(ZOO / "llama-a-continued"))
    assert found is not None
    assert found.older == "a"
    assert "b retains 100.0 % of what a learned, a retains 9" in found.why


def test_four_bits_make_a_child(parent: Record) -> None:
    assert parent.traits is not None
    assert parent.traits.levels is not None
    assert parent.traits.levels > 30
    quantised = replace(parent, model="q", traits=replace(parent.traits, levels=11.0))
    found = direction(parent, quantised)
    assert found is not None
    assert found.older == "a"


def test_signs_that_contradict_each_other_give_no_direction(parent: Record) -> None:
    assert parent.traits is not None
    extended = full(ZOO / "llama-a-extended")
    quantised = replace(parent, model="q", traits=replace(parent.traits, levels=11.0))
    assert direction(quantised, extended) is None


def test_levels_of_quantised_weights() -> None:
    torch.manual_seed(0)
    weights = torch.randn(128, 64)
    exact = count_levels(weights)
    rounded = count_levels((weights * 3).round().clamp(-8, 7))
    assert exact is not None
    assert rounded is not None
    assert exact > 31.9
    assert rounded <= 16
    assert count_levels(torch.randn(16, 64)) is None
