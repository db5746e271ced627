"""The forward pass compared with the hidden states of transformers' own modules."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import huref
from huref.architecture.reader import ModelReader
from huref.architecture.running import EXACT, running
from huref.errors import CheckpointError
from huref.invariants.forward import ForwardPass, row_space
from huref.invariants.token_rows import TokenRows
from huref.loader.checkpoint import open_checkpoint
from tests.support.module_oracle import find_layers
from tests.support.small_models import some_words, write_tokenizer

SHAPE = {
    "vocab_size": 256, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 24,
    "short_factor": [1.0, 1.3, 1.7, 2.5], "long_factor": [2.0, 3.0, 5.0, 9.0],
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-head-dim": ("llama", {"head_dim": 16, "attention_bias": True, "mlp_bias": True}),
    "llama-llama3-rope": ("llama", {"rope_parameters": LLAMA3}),
    "llama-yarn": ("llama", {"rope_parameters": YARN}),
    "mistral": ("mistral", {}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma2": ("gemma2", {"head_dim": 16, "query_pre_attn_scalar": 24}),
    "gemma3": ("gemma3_text", {"head_dim": 16, "query_pre_attn_scalar": 24}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 3, "n_head": 4}),
    "gpt-neox": ("gpt_neox", {}),
    "gpt-neox-sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "phi": ("phi", {}),
    "phi3": ("phi3", {}),
    "phi3-long": ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 24}),
    "gptj": ("gptj", {"n_embd": 32, "n_layer": 3, "n_head": 4, "rotary_dim": 4}),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "olmo": ("olmo", {}),
    "cohere": ("cohere", {}),
    "stablelm": ("stablelm", {}),
    "granite": ("granite", {"residual_multiplier": 0.3, "embedding_multiplier": 3.0,
                            "attention_multiplier": 0.2}),
    "starcoder2": ("starcoder2", {}),
    "smollm3": ("smollm3", {}),
}  # fmt: skip


def randomise(model: torch.nn.Module) -> None:
    """Random weights, gains and biases, so that no part of a block can be left out unnoticed."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1:
            parameter.data.copy_(noise / math.sqrt(parameter.shape[-1]))
        else:
            parameter.data.add_(0.3 * noise)


def hidden_states(model: torch.nn.Module, ids: Tensor, width: int) -> list[Tensor]:
    """What each layer gives, (tokens, width)."""
    states: list[Tensor] = []

    def keep(_: torch.nn.Module, __: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        states.append(first.reshape(-1, width))

    handles = [layer.register_forward_hook(keep) for layer in find_layers(model)[1]]
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    return states


@pytest.mark.parametrize("name", CASES)
def test_hidden_states_agree_with_the_module(name: str, tmp_path: Path) -> None:
    model_type, changes = CASES[name]
    assert model_type in EXACT
    config = AutoConfig.for_model(model_type, **{**SHAPE, **changes})
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).float().eval()
    randomise(model)
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, some_words(250))
    ids = torch.randint(3, 250, (2, 24), generator=torch.Generator().manual_seed(1))
    expected = hidden_states(model, ids, 32)
    reader = ModelReader(open_checkpoint(str(tmp_path)))
    rows = reader.embeddings(range(64))
    run = ForwardPass(TokenRows(reader), ids, row_space(rows), rows)
    assert run.exact
    for index in reader.attention_blocks:
        run.run(index, reader.read_attention(index), reader.read_ffn(index))
        own, module = run.x, expected[index]
        if reader.layout.norms.kind == "layernorm":  # which subtracts the mean from what it reads
            own, module = (x - x.mean(dim=1, keepdim=True) for x in (own, module))
        assert (own - module).norm() < 1e-4 * module.norm()


def test_every_family_that_is_called_exact_is_compared() -> None:
    assert set(EXACT) == {model_type for model_type, _ in CASES.values()}


def test_rotary_angles_of_a_mixture_with_long_scaling(tmp_path: Path) -> None:
    from transformers.models.phimoe.modeling_phimoe import PhimoeRotaryEmbedding

    rope = {**LONG, "short_mscale": 1.2, "long_mscale": 1.4}
    config = AutoConfig.for_model(
        "phimoe", **SHAPE, rope_parameters=rope, original_max_position_embeddings=24,
        num_local_experts=4,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path, some_words(250))
    reader = ModelReader(open_checkpoint(str(tmp_path)))
    found = running(reader.layout, reader.config, 32, learned=False).rotation(1, 8, 20)
    assert found is not None
    module = PhimoeRotaryEmbedding(config)
    expected = module(torch.zeros(1, 20, 8), torch.arange(20)[None])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs[0, :, :4])


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"rope_type": "longrope", "short_factor": ["a"] * 8}},
        {"rope_scaling": {"rope_type": "su", "short_factor": [1.0, None] * 4}},
        {"rope_scaling": {"rope_type": "yarn", "factor": "four"}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {"rope_theta": "ten thousand", "rope_scaling": None, "rope_parameters": None},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": [1e4], "factor": 2.0}},
    ],
    ids=str,
)
def test_settings_of_another_form_are_refused(
    changes: dict[str, Any], make_llama: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_llama("model")
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **changes}), "utf-8")
    with pytest.raises(CheckpointError, match="has a setting of another form"):
        huref.fingerprint(folder, tmp_path / "dog.png")
