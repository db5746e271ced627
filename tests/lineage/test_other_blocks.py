"""Where the recipe's blocks were changed until nothing can be told, full depth asks the others."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from huref.api.open import open_record
from huref.lineage.evidence import Evidence
from huref.lineage.table import build_table
from tests.support.zoo import ZOO

pytestmark = pytest.mark.slow
READ = (1, 2)  # blocks of the default recipe
EVERY = (0, 1, 2, 3, 4)


def blur(source: Path, out: Path, blocks: tuple[int, ...], noise: float = 2.0) -> Path:
    """A copy with noise of `noise` deviations on every matrix of some blocks."""
    shutil.copytree(source, out)
    draw = torch.Generator().manual_seed(0)
    for file in sorted(out.glob("*.safetensors")):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if tensor.ndim == 2 and any(f".layers.{index}." in name for index in blocks):
                values = tensor.float()
                added = noise * values.std() * torch.randn(values.shape, generator=draw)
                tensors[name] = (values + added).to(tensor.dtype)
        save_file(tensors, file, {"format": "pt"})
    return out


def compare(a: Path, b: Path) -> Evidence:
    records = [open_record(str(model), depth="full", cache=model.parent == ZOO) for model in (a, b)]
    [pair] = build_table(records).pairs
    return pair.evidence


@pytest.mark.parametrize(
    ("base", "noise"), [("llama-a", 2.0), ("llama-a", 3.0), ("mistral-d", 2.0)]
)
def test_a_copy_with_the_read_blocks_blurred_descends(
    base: str, noise: float, tmp_path: Path
) -> None:
    evidence = compare(ZOO / base, blur(ZOO / base, tmp_path / "copy", READ, noise))
    assert evidence.verdict == "descends", evidence.why
    assert evidence.direction is None


def test_a_twin_with_the_read_blocks_blurred_does_not_descend(tmp_path: Path) -> None:
    evidence = compare(ZOO / "llama-a", blur(ZOO / "llama-a-twin", tmp_path / "copy", READ))
    assert evidence.verdict in ("shared initialisation", "inconclusive"), evidence.why


def test_where_every_block_is_blurred_nothing_can_be_told(tmp_path: Path) -> None:
    evidence = compare(ZOO / "llama-a", blur(ZOO / "llama-a", tmp_path / "copy", EVERY))
    assert evidence.verdict == "inconclusive", evidence.why
