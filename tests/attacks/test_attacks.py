"""Attacked copies compute what the original computes, and their terms are the same."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from huref.attacks import EXACT, attack
from huref.attacks.kinds import why_inexact
from huref.attacks.opening import open_editable
from huref.attacks.proof import logit_difference
from huref.cli import main
from huref.errors import AttackError, HurefError
from huref.loader.checkpoint import open_checkpoint
from scripts.evaluate.random_models import FAMILIES, ONE_KEY_HEAD_EACH, ics, make_model
from tests.support.hub_server import LoopbackHub
from tests.support.small_models import some_words, write_tokenizer


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("originals")
    return {family: make_model(folder / family, family) for family in FAMILIES}


@pytest.mark.parametrize("kind", [*EXACT, "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_exact_attacks_preserve_logits_and_terms(
    originals: dict[str, Path], family: str, kind: str, tmp_path: Path
) -> None:
    original, copy = originals[family], tmp_path / "copy"
    if kind != "all" and (reason := why_inexact(kind, open_editable(str(original)))):
        with pytest.raises(AttackError, match=reason):
            attack(original, [kind], copy)
        return
    attack(original, [kind], copy, seed=3)
    assert logit_difference(original, copy) < 2e-5
    assert ics(original, copy) > 0.9999
    assert not _same_weights(original, copy)


def _same_weights(a: Path, b: Path) -> bool:
    """Whether two checkpoints hold equal tensors, so that an attack did nothing."""
    first, second = (open_checkpoint(str(folder)) for folder in (a, b))
    if set(first.names) != set(second.names):
        return False
    tensors, others = first.read(first.names), second.read(second.names)
    return all(torch.equal(tensors[name], others[name]) for name in tensors)


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    family=st.sampled_from(FAMILIES),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 3),
    half_dim=st.integers(2, 5),
    seed=st.integers(0, 2**16),
)
def test_all_attacks_at_once_at_any_shape(
    tmp_path_factory: pytest.TempPathFactory,
    family: str, groups: int, per_group: int, half_dim: int, seed: int,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("shape")
    if family in ONE_KEY_HEAD_EACH:
        groups, per_group = groups * per_group, 1
    original = make_model(folder / "original", family, groups, per_group, 2 * half_dim, seed)
    attack(original, ["all"], folder / "copy", seed)
    assert logit_difference(original, folder / "copy") < 2e-5
    assert ics(original, folder / "copy") > 0.9999


def test_layer_duplication_is_not_exact_but_preserves_early_terms(
    originals: dict[str, Path], tmp_path: Path
) -> None:
    attack(originals["Llama"], ["layer-duplication"], tmp_path / "copy")
    assert logit_difference(originals["Llama"], tmp_path / "copy") > 1e-3
    assert ics(originals["Llama"], tmp_path / "copy") > 0.9999


def test_the_command_writes_a_copy(originals: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "copy"
    arguments = ["attack", str(originals["GPT2"]), "--kind", "rotation,ffn-permutation", "-o"]
    result = CliRunner().invoke(main, [*arguments, str(out), "--check"])
    assert result.exit_code == 0, result.output
    match = re.search(
        r"largest difference of logits: (\S+) of their standard deviation", result.output
    )
    assert match is not None
    assert float(match[1]) == pytest.approx(logit_difference(originals["GPT2"], out), rel=0.1)
    assert float(match[1]) < 2e-5
    again = CliRunner().invoke(main, [*arguments, str(out)])
    assert again.exit_code == 1
    assert "already exists" in again.output


def test_shards_and_a_file_beside_its_config_are_read(
    originals: dict[str, Path], tmp_path: Path
) -> None:
    original = originals["Llama"]
    model = transformers.LlamaForCausalLM.from_pretrained(original)
    model.save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    (tmp_path / "shards" / "tokenizer.json").write_bytes((original / "tokenizer.json").read_bytes())
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    attack(tmp_path / "shards", ["rotation"], tmp_path / "a")
    attack(original / "model.safetensors", ["rotation"], tmp_path / "b")
    assert logit_difference(original, tmp_path / "a") < 2e-5
    assert logit_difference(original, tmp_path / "b") < 2e-5


def test_a_hub_repository_is_downloaded_once(
    originals: dict[str, Path], hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/model", originals["Gemma2"])
    attack("org/model", ["ffn-permutation"], tmp_path / "one")
    assert logit_difference(originals["Gemma2"], tmp_path / "one") < 2e-5
    sent = hub.bytes_sent
    attack("org/model", ["sign-flips"], tmp_path / "two")
    assert hub.bytes_sent == sent
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    attack("org/model", ["sign-flips"], tmp_path / "three")
    assert logit_difference(originals["Gemma2"], tmp_path / "three") < 2e-5
    with pytest.raises(HurefError, match="org/other"):
        attack("org/other", ["sign-flips"], tmp_path / "four")


def test_an_unknown_tensor_is_refused(originals: dict[str, Path], tmp_path: Path) -> None:
    """Doge is read through Llama's layout, but has additional gains on its residual stream."""
    folder = tmp_path / "model"
    shutil.copytree(originals["Llama"], folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.input_residual"] = torch.ones(16)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(AttackError, match=r"layers\.1\.input_residual': no attack supports it"):
        attack(folder, ["rotation"], tmp_path / "copy")


def test_unknown_kinds_and_architectures_are_refused(
    originals: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(AttackError, match="unknown attack"):
        attack(originals["Llama"], ["magic"], tmp_path / "copy")
    config = transformers.OlmoConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    transformers.OlmoForCausalLM(config).save_pretrained(tmp_path / "olmo")
    write_tokenizer(tmp_path / "olmo", some_words(64))
    with pytest.raises(AttackError, match="this model has 'olmo'"):
        attack(tmp_path / "olmo", ["rotation"], tmp_path / "copy")
