"""Attacked copies compute what the original computes, and keep its terms."""

from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner
from conftest import some_words, write_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from measure_attacks import FAMILIES, ics, logit_difference, make_model

from huref.attacks import EXACT, attack
from huref.attacks.editable import open_editable
from huref.attacks.kinds import applies
from huref.cli import main
from huref.errors import AttackError
from huref.loader.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("originals")
    return {family: make_model(folder / family, family) for family in FAMILIES}


@pytest.mark.parametrize("kind", [*EXACT, "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_exact_attacks_keep_logits_and_terms(
    originals: dict[str, Path], family: str, kind: str, tmp_path: Path
) -> None:
    original, copy = originals[family], tmp_path / "copy"
    if kind != "all" and (reason := applies(kind, open_editable(str(original)))):
        with pytest.raises(AttackError, match=reason):
            attack(original, [kind], copy)
        return
    attack(original, [kind], copy, seed=3)
    assert logit_difference(original, copy) < 2e-5
    assert ics(original, copy) > 0.9999
    assert not _same_weights(original, copy)


def _same_weights(a: Path, b: Path) -> bool:
    """Whether every tensor of one is in the other, so that the attack did nothing."""
    one, two = (open_checkpoint(str(f)) for f in (a, b))
    if set(one.names) != set(two.names):
        return False
    left, right = one.read(one.names), two.read(two.names)
    return all(torch.equal(left[name], right[name]) for name in left)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
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
    if family in ("GPT2", "GPTNeoX"):
        groups, per_group = groups * per_group, 1
    original = make_model(folder / "original", family, groups, per_group, 2 * half_dim, seed)
    attack(original, ["all"], folder / "copy", seed)
    assert logit_difference(original, folder / "copy") < 2e-5
    assert ics(original, folder / "copy") > 0.9999


def test_a_duplicated_layer_is_not_exact_but_early_terms_stay(
    originals: dict[str, Path], tmp_path: Path
) -> None:
    attack(originals["Llama"], ["layer-duplication"], tmp_path / "copy")
    assert logit_difference(originals["Llama"], tmp_path / "copy") > 1e-3
    assert ics(originals["Llama"], tmp_path / "copy") > 0.9999


def test_the_command_writes_a_copy(originals: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "copy"
    arguments = ["attack", str(originals["GPT2"]), "--kind", "rotation,ffn-permutation", "-o"]
    result = CliRunner().invoke(main, [*arguments, str(out)])
    assert result.exit_code == 0, result.output
    assert logit_difference(originals["GPT2"], out) < 2e-5
    again = CliRunner().invoke(main, [*arguments, str(out)])
    assert again.exit_code == 1
    assert "already exists" in again.output


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
