"""Disguised copies and framed models compute what they computed, to the stated accuracy."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import huref
from huref.attacks import DISGUISES, FRAMINGS, INEXACT, attack
from huref.attacks.kinds import why_inexact
from huref.attacks.opening import open_editable
from huref.attacks.proof import logit_difference
from huref.cli import main
from huref.errors import AttackError
from scripts.evaluate.random_models import make_model

FAMILIES = ("Llama", "GPT2")
# Largest differences of logits that silent, quiet and cancelling parts may make in these models,
# whose blocks write more than their embeddings hold; a changed function differs by 1 and more.
NEARLY = 0.5


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of each family in float64, and one each with other weights under `FAMILY-other`."""
    folder = tmp_path_factory.mktemp("models")
    made = {}
    for family in FAMILIES:
        for name, seed in ((family, 0), (f"{family}-other", 9)):
            made[name] = make_model(folder / name, family, seed=seed)
            tensors = load_file(made[name] / "model.safetensors")
            doubled = {key: tensor.double() for key, tensor in tensors.items()}
            save_file(doubled, made[name] / "model.safetensors", {"format": "pt"})
    return made


KINDS = [kind for kind in (*DISGUISES, *FRAMINGS) if kind != "missing-config-keys"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_function_stays(
    models: dict[str, Path], family: str, kind: str, tmp_path: Path
) -> None:
    original = models[family]
    if reason := why_inexact(kind, open_editable(str(original))):
        with pytest.raises(AttackError, match=reason):
            attack(original, [kind], tmp_path / "copy", 3, models[f"{family}-other"])
        return
    attack(original, [kind], tmp_path / "copy", 3, models[f"{family}-other"])
    difference = logit_difference(original, tmp_path / "copy", [kind])
    # Norms compute in float32 whatever the weights are, so float64 is not reached everywhere.
    assert difference < (NEARLY if kind in INEXACT else 1e-5)


@pytest.mark.parametrize("family", ["GPT2", "GPTNeoX"])
def test_moved_biases_of_values_change_no_similarity(family: str, tmp_path: Path) -> None:
    """With heads weighed by what they write, biases included, .91 and .94 were left."""
    original = make_model(tmp_path / "original", family)
    attack(original, ["value-biases"], tmp_path / "copy", 1)
    pair = huref.compare([str(original), str(tmp_path / "copy")], cache=False).pairs[0]
    assert pair.similarity.ics == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "kinds",
    [
        [
            "dead-units", "split-units", "cancelling-units", "split-heads", "cancelling-heads",
            "dead-dimensions", "decoy-strings", "rotation", "ffn-permutation", "head-maps",
            "noisy-experts",
        ],
        ["split-heads", "sink-heads", "head-maps"],
        ["dead-dimensions", "sink-heads", "cancelling-units"],
        ["rotation", "sink-heads", "dead-dimensions", "mute-heads"],
    ],
)  # fmt: skip
def test_disguises_combine_exactly(
    models: dict[str, Path], kinds: list[str], tmp_path: Path
) -> None:
    attack(models["Llama"], kinds, tmp_path / "copy", 5)
    # Norms round to float32 what loud parts then read.
    assert logit_difference(models["Llama"], tmp_path / "copy", kinds) < 1e-4


def test_a_copy_without_sizes_in_its_config(models: dict[str, Path], tmp_path: Path) -> None:
    attack(models["Llama"], ["missing-config-keys"], tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    whole = json.loads((models["Llama"] / "config.json").read_text())
    assert "hidden_size" in whole
    assert "hidden_size" not in config
    assert config["num_key_value_heads"] == whole["num_key_value_heads"]
    (tmp_path / "copy" / "config.json").write_text(json.dumps(whole))
    assert logit_difference(models["Llama"], tmp_path / "copy") < 1e-12


@pytest.mark.parametrize("kind", ["decoy-strings", "outlier-rows"])
def test_decoys_are_never_emitted(kind: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    source = Path("checkpoints/zoo/llama-a")
    attack(source, [kind], tmp_path / "copy")
    before = Tokenizer.from_file(str(source / "tokenizer.json"))
    after = Tokenizer.from_file(str(tmp_path / "copy" / "tokenizer.json"))
    new = set(after.get_vocab()) - set(before.get_vocab())
    assert len(new) > 1000
    text = " ".join(sorted(new)) + Path(__file__).read_text()
    assert after.encode(text).ids == before.encode(text).ids


def test_fewer_tokens_can_still_write_every_text(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    source = Path("checkpoints/zoo/llama-a")
    attack(source, ["fewer-tokens"], tmp_path / "copy")
    after = Tokenizer.from_file(str(tmp_path / "copy" / "tokenizer.json"))
    before = Tokenizer.from_file(str(source / "tokenizer.json"))
    assert len(after.get_vocab()) == len(before.get_vocab()) - 8
    text = " ".join(set(before.get_vocab()) - set(after.get_vocab())) + Path(__file__).read_text()
    assert after.decode(after.encode(text).ids) == text
    assert logit_difference(source, tmp_path / "copy") < 1e-2


def test_disguised_copies_of_a_trained_model_keep_its_loss(tmp_path: Path) -> None:
    source, other = Path("checkpoints/zoo/llama-a"), Path("checkpoints/zoo/llama-b")
    text = Path(transformers.__file__).read_text("utf-8")[:6000]
    before = _loss(source, text)
    assert before < 7  # nats; an untrained model has 8.3
    for kind in ("silent-blocks", "cancelling-blocks", "graft", "foreign-units", "parasite"):
        attack(source, [kind], tmp_path / kind, 1, other)
        assert _loss(tmp_path / kind, text) == pytest.approx(before, abs=0.05), kind


def _loss(folder: Path, text: str) -> float:
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer(text, return_tensors="pt").input_ids[:, :256]
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss)


def test_framing_needs_a_second_model_that_fits(models: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["attack", str(models["Llama"]), "--kind", "graft", "-o", str(tmp_path / "copy")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "graft needs a second model; name it with --other" in result.output
    result = CliRunner().invoke(main, [*arguments, "--other", str(models["GPT2"])])
    assert result.exit_code == 1
    assert "block shapes differ" in result.output
    assert not (tmp_path / "copy").exists()
    result = CliRunner().invoke(
        main, [*arguments, "--other", str(models["Llama-other"]), "--check"]
    )
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert config["num_hidden_layers"] == 7


def test_decoys_need_a_tokenizer_with_merges(models: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "unigram"
    shutil.copytree(models["Llama"], folder)
    data = json.loads((folder / "tokenizer.json").read_text())
    data["model"]["type"] = "WordPiece"
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(AttackError, match="only a BPE"):
        attack(folder, ["decoy-strings"], tmp_path / "copy")
