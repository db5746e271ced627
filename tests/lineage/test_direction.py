"""Which of two relatives came first, where a change shows it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from huref.api.open import open_record
from huref.attacks import attack
from huref.invariants.record import Record
from huref.invariants.traits import count_levels
from huref.lineage.direction import find_direction
from huref.lineage.evidence import Direction
from huref.lineage.retention import Retention
from huref.lineage.table import build_table
from huref.recipe import load_recipe
from tests.support.zoo import ZOO

RECORD = Record("x", None, load_recipe()[0], None, None, None, None)


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


def test_a_child_whose_blocks_were_removed_and_trained(parent: Record) -> None:
    found = direction(parent, full(ZOO / "llama-a-pruned"))
    assert found is not None
    assert found.older == "a"
    assert "the difference has a standard error of" in found.why


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["upcycling", "no-op-layers", "layer-duplication", "vocabulary-extension", "quiet-units",
     "dead-units", "split-units", "dead-dimensions", "fewer-tokens", "dead-heads"],
)  # fmt: skip
def test_padding_gives_no_direction(parent: Record, tmp_path: Path, kind: str) -> None:
    attack(ZOO / "llama-a", [kind], tmp_path / "copy")
    copy = open_record(str(tmp_path / "copy"))
    evidence = build_table((open_record(str(ZOO / "llama-a"), cache=True), copy)).pairs[0].evidence
    assert evidence.direction is None
    if evidence.verdict == "descends":
        assert "a signed attestation of one that is older" in evidence.why


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["padded", "widened"])
def test_a_network_that_was_padded_or_widened_is_not_older(
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
    assert direction(parent, full(copy)) is None


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


@pytest.mark.slow
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
    assert direction(parent, ternary) is None


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


def test_a_difference_within_its_error_is_no_direction() -> None:
    def older(difference: float, error: float) -> str | None:
        lower = 1 - abs(difference)
        of_a, of_b = (1.0, lower) if difference > 0 else (lower, 1.0)
        retention = Retention(of_a, of_b, 0.9, error_of_difference=error)
        found = find_direction(RECORD, RECORD, retention)
        return None if found is None else found.older

    assert older(0.011, 0.0045) is None
    assert older(0.014, 0.0045) == "a"
    assert older(-0.014, 0.0045) == "b"
    assert older(0.003, 0.0001) is None  # certain, and too small to mean anything


@pytest.mark.slow
def test_a_fine_tune_of_a_dequantised_base_is_not_older(tmp_path: Path) -> None:
    """The base lies on a grid of four bits, and its child does not."""

    def on_a_grid(weight: Tensor) -> Tensor:
        groups = weight.reshape(len(weight), -1, 16)
        step = (groups.amax(2, keepdim=True) - groups.amin(2, keepdim=True)) / 15
        return ((groups / step).round() * step).reshape(weight.shape)

    torch.manual_seed(0)
    base = damage(ZOO / "llama-a", tmp_path / "base", on_a_grid)
    child = damage(tmp_path / "base", tmp_path / "child", lambda w: w + 1e-3 * torch.randn_like(w))
    assert base.traits is not None
    assert base.traits.levels is not None
    assert build_table((base, child)).pairs[0].evidence.verdict == "descends"
    assert direction(base, child) is None


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
