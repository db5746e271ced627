"""A merge beside a registry that holds its parents."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from huref.cli import main
from tests.support.merges import save_merge, weighted
from tests.support.zoo import ZOO

ONE, TWO, BASE = (ZOO / name for name in ("llama-a-finetune", "llama-a-continued", "llama-a"))


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
def test_the_parents_of_a_merge_are_named_with_shares(tmp_path: Path) -> None:
    """Also where a third parent is not registered: that something is missing is said."""
    registry = tmp_path / "registry"
    run("registry", "init", registry)
    run("registry", "add", registry, ONE, TWO, BASE)
    merge = save_merge(tmp_path / "merge", [ONE, TWO], BASE, weighted([0.7, 0.3]), torch.float16)
    found = json.loads(run("identify", merge, "--registry", registry, "--every", "--json"))
    mixing = found["mixing"]
    shares = {Path(p).name: s for p, s in zip(mixing["parents"], mixing["shares"], strict=True)}
    assert shares == {
        "llama-a-finetune": pytest.approx(0.7, abs=0.03),
        "llama-a-continued": pytest.approx(0.3, abs=0.03),
    }
    assert "remains" not in mixing["why"]
    third = ZOO / "llama-a-finetune-2"
    parents, weights = [ONE, TWO, third], weighted([0.5, 0.35, 0.15])
    other = save_merge(tmp_path / "other", parents, BASE, weights, torch.float16)
    found = json.loads(run("identify", other, "--registry", registry, "--every", "--json"))
    assert found["mixing"] is not None
    assert "parent that is not among these models" in found["mixing"]["why"]
