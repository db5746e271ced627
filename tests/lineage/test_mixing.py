"""Merges: parents and shares, on mixtures made here."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import huref
from huref.api.open import open_record
from huref.invariants.record import Record
from huref.lineage.evidence import Mixing
from huref.lineage.mixing import find_mixings
from tests.support.zoo import ZOO


def record(path: Path) -> Record:
    return open_record(str(path), cache=True)


@pytest.fixture(scope="module")
def family() -> list[Record]:
    names = ("llama-a", "llama-a-finetune", "llama-a-finetune-2", "llama-a-continued")
    return [record(ZOO / name) for name in (*names, "llama-a-lora")]


def mix(folder: Path, parts: Sequence[tuple[str, float]]) -> Record:
    """A linear merge of models of the zoo."""
    folder.mkdir()
    for file in (ZOO / parts[0][0]).glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    states = [(load_file(ZOO / name / "model.safetensors"), share) for name, share in parts]
    mixed = {
        key: torch.stack([state[key].float() * share for state, share in states]).sum(dim=0)
        for key in states[0][0]
    }
    save_file(
        {key: tensor.half().contiguous() for key, tensor in mixed.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return record(folder)


def the_only(mixings: Sequence[Mixing], child: Record) -> Mixing:
    assert [mixing.child for mixing in mixings] == [child.model]
    return mixings[0]


@pytest.mark.parametrize(
    "parts",
    [
        [("llama-a-finetune", 0.5), ("llama-a-finetune-2", 0.5)],
        [("llama-a-finetune", 0.3), ("llama-a-continued", 0.7)],
        [("llama-a-finetune", 0.5), ("llama-a-continued", 0.3), ("llama-a-finetune-2", 0.2)],
    ],
)
def test_shares_of_linear_merges(
    family: list[Record], tmp_path: Path, parts: list[tuple[str, float]]
) -> None:
    child = mix(tmp_path / "mixed", parts)
    mixing = the_only(find_mixings([*family, child]), child)
    assert mixing.shares is not None
    assert mixing.low is not None
    assert mixing.high is not None
    found = dict(zip((Path(p).name for p in mixing.parents), mixing.shares, strict=True))
    assert set(found) == {name for name, _ in parts}
    for (name, share), low, high in zip(
        sorted(parts, key=lambda part: list(found).index(part[0])),
        mixing.low,
        mixing.high,
        strict=True,
    ):
        assert found[name] == pytest.approx(share, abs=0.06)
        assert low - 0.01 <= share <= high + 0.01
    assert sum(mixing.shares) == pytest.approx(1.0)


def test_models_that_are_no_merges_have_no_parents(family: list[Record]) -> None:
    assert find_mixings(family) == ()
    assert find_mixings([*family, record(ZOO / "llama-a-pruned")]) == ()


def test_two_models_are_too_few(family: list[Record]) -> None:
    assert find_mixings(family[:2]) == ()


def test_the_table_finds_the_zoos_merge() -> None:
    names = ("llama-b", "llama-a-merge", "llama-a-finetune", "llama-a-finetune-2")
    table = huref.compare([ZOO / name for name in names])
    (mixing,) = table.mixings
    assert Path(mixing.child).name == "llama-a-merge"
    assert mixing.shares == pytest.approx((0.5, 0.5), abs=0.03)
    # A mean is nearer to the root than its parents, although it came after them.
    older = {frozenset((Path(p.a).name, Path(p.b).name)): p.older for p in table.pairs}
    for parent in ("llama-a-finetune", "llama-a-finetune-2"):
        named = older[frozenset(("llama-a-merge", parent))]
        assert named is not None
        assert Path(named).name == parent
