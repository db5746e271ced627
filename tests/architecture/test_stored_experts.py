"""Experts are the same network, whichever way a checkpoint stores them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from huref.architecture.block import Mixture
from huref.architecture.reader import ModelReader
from huref.errors import CheckpointError
from huref.loader.checkpoint import open_checkpoint
from tests.support.small_models import some_words, write_tokenizer

COUNT, SIZE, HIDDEN = 3, 16, 8
Experts = dict[str, Tensor]  # gate, up (experts, hidden, size), down (experts, size, hidden)
Form = Callable[[Experts], dict[str, Tensor]]


def singles(stem: str, gate: str, up: str, down: str) -> Form:
    def write(experts: Experts) -> dict[str, Tensor]:
        roles = {"gate": gate, "up": up, "down": down}
        return {
            f"{stem}.{e}.{name}.weight": experts[role][e]
            for role, name in roles.items()
            for e in range(COUNT)
        }

    return write


def stack(stem: str, end: str = "", transposed: bool = False) -> Form:
    def write(experts: Experts) -> dict[str, Tensor]:
        fused = torch.cat([experts["gate"], experts["up"]], dim=1)
        pair = {f"{stem}.gate_up_proj{end}": fused, f"{stem}.down_proj{end}": experts["down"]}
        return {name: tensor.mT if transposed else tensor for name, tensor in pair.items()}

    return write


def apart(stem: str, end: str = ".weight") -> Form:
    return lambda experts: {f"{stem}.{role}_proj{end}": experts[role] for role in experts}


def fused_singles(stem: str) -> Form:
    def write(experts: Experts) -> dict[str, Tensor]:
        return {
            name: tensor
            for e in range(COUNT)
            for name, tensor in (
                (
                    f"{stem}.{e}.gate_up_proj.weight",
                    torch.cat([experts["gate"][e], experts["up"][e]]),
                ),
                (f"{stem}.{e}.down_proj.weight", experts["down"][e]),
            )
        }

    return write


def by_turns(experts: Experts) -> Tensor:
    """gpt-oss's gate and up, (experts, 2 hidden, size), row by row in turn."""
    return torch.stack([experts["gate"], experts["up"]], dim=2).flatten(1, 2)


FORMS: dict[str, tuple[str, Form]] = {
    "one by one": ("qwen3_moe", singles("mlp.experts", "gate_proj", "up_proj", "down_proj")),
    "Mixtral's": ("mixtral", singles("block_sparse_moe.experts", "w1", "w3", "w2")),
    "stacked": ("qwen3_moe", stack("mlp.experts")),
    "stacked, in first": ("qwen3_moe", stack("mlp.experts", transposed=True)),
    "stacked modules": ("qwen3_moe", stack("mlp.experts", ".weight")),
    "Mixtral's stacked": ("mixtral", stack("mlp.experts")),
    "Mixtral's, stacked where they were": ("mixtral", stack("block_sparse_moe.experts")),
    "MLX": ("qwen3_moe", apart("mlp.switch_mlp")),
    "MLX's Mixtral": ("mixtral", apart("block_sparse_moe.switch_mlp")),
    "MLX's gpt-oss": ("gpt_oss", apart("mlp.experts")),
    "parameters apart": ("qwen3_moe", apart("mlp.experts", "")),
    "one by one, fused": ("qwen3_moe", fused_singles("mlp.experts")),
    "gpt-oss": ("gpt_oss", lambda x: {"mlp.experts.gate_up_proj": by_turns(x).mT,
                                      "mlp.experts.down_proj": x["down"].mT}),
    "gpt-oss, one by one": ("gpt_oss", lambda x: {
        **{f"mlp.experts.gate_up_projs.{e}.weight": by_turns(x)[e] for e in range(COUNT)},
        **{f"mlp.experts.down_projs.{e}.weight": x["down"][e] for e in range(COUNT)}}),
    "Llama 4": ("llama4_text", stack("feed_forward.experts", transposed=True)),
    "Llama 4, one by one": (
        "llama4_text", singles("feed_forward.experts", "gate_proj", "up_proj", "down_proj")),
    "Llama 4, out first": ("llama4_text", stack("feed_forward.experts")),
    "Granite, one by one": (
        "granitemoe", singles("block_sparse_moe.experts", "gate_proj", "up_proj", "down_proj")),
}  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, dict[str, Tensor]], Path]:
    """A function that writes a checkpoint of two blocks with some experts."""

    def make(model_type: str, experts: dict[str, Tensor]) -> Path:
        config = {
            "model_type": model_type, "hidden_size": SIZE, "intermediate_size": HIDDEN,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
            "head_dim": 8, "vocab_size": 32, "num_local_experts": COUNT, "num_experts": COUNT,
            "rms_norm_eps": 1e-6,
        }  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config))
        write_tokenizer(tmp_path, some_words(32))
        tensors = {"model.embed_tokens.weight": torch.randn(32, SIZE)}
        for block in range(2):
            start = f"model.layers.{block}."
            for role in "qkvo":
                tensors[f"{start}self_attn.{role}_proj.weight"] = torch.randn(SIZE, SIZE)
            for role in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"{start}{role}.weight"] = torch.ones(SIZE)
            tensors |= {start + name: tensor for name, tensor in experts.items()}
        contiguous = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, tmp_path / "model.safetensors")
        return tmp_path

    return make


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_experts(
    write: Callable[[str, dict[str, Tensor]], Path], form: str
) -> None:
    torch.manual_seed(0)
    experts = {"gate": torch.randn(COUNT, HIDDEN, SIZE), "up": torch.randn(COUNT, HIDDEN, SIZE),
               "down": torch.randn(COUNT, SIZE, HIDDEN)}  # fmt: skip
    model_type, store = FORMS[form]
    folder = write(model_type, store(experts))
    mixture = ModelReader(open_checkpoint(str(folder))).read_ffn(1)
    assert isinstance(mixture, Mixture)
    assert mixture.count == COUNT
    for index in range(COUNT):
        network = mixture.read(index)
        assert network.gate is not None
        torch.testing.assert_close(network.gate, experts["gate"][index].T)
        torch.testing.assert_close(network.up, experts["up"][index].T)
        torch.testing.assert_close(network.down, experts["down"][index].T)


def test_experts_that_are_missing_are_named(
    write: Callable[[str, dict[str, Tensor]], Path],
) -> None:
    folder = write("qwen3_moe", {"mlp.experts.gate_up_proj": torch.ones(COUNT, HIDDEN, SIZE)})
    with pytest.raises(CheckpointError, match=r"no tensor 'model\.layers\.1\.mlp\.up_proj"):
        ModelReader(open_checkpoint(str(folder))).read_ffn(1)
    two = torch.ones(2, SIZE, HIDDEN)
    folder = write("qwen3_moe", {"mlp.experts.gate_up_proj": two.mT.repeat(1, 2, 1),
                                 "mlp.experts.down_proj": two})  # fmt: skip
    with pytest.raises(CheckpointError, match=r"it holds 2 experts, but config\.json says 3"):
        ModelReader(open_checkpoint(str(folder))).read_ffn(1)
