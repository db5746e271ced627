"""Kinds that train: more steps bring a redrawn copy nearer, or push a copy further away."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from huref.attacks import Effort, attack
from huref.attacks.proof import logit_difference
from huref.cli import main
from huref.loader.checkpoint import open_checkpoint
from scripts.evaluate.random_models import ics, make_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("source") / "model", "Llama")


def changed_blocks(before: Path, after: Path) -> set[int]:
    """Indices of the blocks in which two checkpoints differ; -1 for what is outside them."""
    one, two = (open_checkpoint(str(folder)) for folder in (before, after))
    tensors, others = one.read(one.names), two.read(two.names)
    differing = [name for name in tensors if not torch.equal(tensors[name], others[name])]
    return {int(name.split(".")[2]) if ".layers." in name else -1 for name in differing}


def test_more_steps_bring_a_distilled_copy_nearer(source: Path, tmp_path: Path) -> None:
    found = []
    for steps in (1, 40):
        copy = tmp_path / str(steps)
        attack(source, ["distilled-blocks"], copy, effort=Effort(steps))
        assert changed_blocks(source, copy) == {1, 2}
        assert ics(source, copy) < 0.5
        found.append(logit_difference(source, copy))
    assert found[1] < 0.8 * found[0]


def test_a_push_lowers_the_similarity_and_hardly_the_predictions(
    source: Path, tmp_path: Path
) -> None:
    attack(source, ["gradient-push"], tmp_path / "pushed", effort=Effort(40))
    attack(source, ["distilled-blocks"], tmp_path / "redrawn", effort=Effort(1))
    assert changed_blocks(source, tmp_path / "pushed") == {1, 2}
    assert ics(source, tmp_path / "pushed") < 0.9
    differences = [logit_difference(source, tmp_path / name) for name in ("pushed", "redrawn")]
    assert differences[0] < 0.6 * differences[1]


@pytest.mark.parametrize("family", ["GPT2", "Gemma2"])
def test_every_family_that_attacks_support_can_be_trained(family: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", family)
    attack(model, ["gradient-push"], tmp_path / "copy", effort=Effort(2, (3,)))
    one, two = (open_checkpoint(str(tmp_path / name)) for name in ("model", "copy"))
    names = [n for n in one.names if not torch.equal(one.read([n])[n], two.read([n])[n])]
    assert names
    assert all(".3." in name for name in names)


def test_the_command_takes_budget_blocks_and_text(source: Path, tmp_path: Path) -> None:
    text, model = tmp_path / "text.txt", tmp_path / "model"
    text.write_text("abacadabra " * 50)
    shutil.copytree(source, model)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    words = list(tokenizer["model"]["vocab"])
    letters = dict(zip(words, "abcdr", strict=False))  # without merges no longer string is emitted
    vocabulary = {letters.get(word, word): i for i, word in enumerate(words)}
    tokenizer["model"]["vocab"] = vocabulary
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    arguments = ["attack", str(model), "--kind", "gradient-push", "--budget", "2"]
    out = tmp_path / "copy"
    result = CliRunner().invoke(
        main, [*arguments, "--blocks", "0,3", "--text", str(text), "-o", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert changed_blocks(source, out) == {0, 3}
    result = CliRunner().invoke(main, [*arguments, "--blocks", "all", "-o", str(tmp_path / "all")])
    assert result.exit_code == 0, result.output
    assert changed_blocks(source, tmp_path / "all") == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--blocks", "0,9"], "there is no block 9"),
        (["--blocks", "first"], "'first' is neither 'all' nor numbers"),
        (["--text", "no-such.txt"], "no-such.txt"),
        (["--kind", "upcycling,gradient-push"], "before upcycling and noisy-experts"),
    ],
)
def test_what_cannot_be_trained(
    source: Path, options: list[str], message: str, tmp_path: Path
) -> None:
    arguments = ["attack", str(source), "--kind", "gradient-push", "--budget", "1"]
    result = CliRunner().invoke(main, [*arguments, *options, "-o", str(tmp_path / "copy")])
    assert result.exit_code != 0
    assert message in result.output
    assert not (tmp_path / "copy").exists()
