"""Which experts a token is given to, and with which weights, as each family's router does it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from huref.architecture.reader import ModelReader
from huref.architecture.router import Router
from huref.loader.checkpoint import open_checkpoint
from tests.support.small_models import some_words, write_tokenizer

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
}  # fmt: skip
GROUPS = {
    "n_group": 2, "topk_group": 1, "n_routed_experts": 8, "first_k_dense_replace": 0,
    "n_shared_experts": 1,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "num_key_value_heads": 4,
}  # fmt: skip
# Families, the name of the router in a block, and settings.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Mixtral": ("mlp.gate", {"num_local_experts": 4}),
    "Qwen2Moe": ("mlp.gate", {"num_experts": 4, "norm_topk_prob": False}),
    "Qwen3Moe": ("mlp.gate", {"num_experts": 4, "norm_topk_prob": True}),
    "GptOss": ("mlp.router", {"num_local_experts": 4}),
    "Glm4Moe": ("mlp.gate", {**GROUPS, "routed_scaling_factor": 1.7}),
    "Dots1": ("mlp.gate", {**GROUPS, "norm_topk_prob": False}),
    "DeepseekV3": ("mlp.gate", {**GROUPS, **LATENT}),
    "Ernie4_5_Moe": (
        "mlp.gate",
        {"moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 0, "moe_layer_interval": 1},
    ),
    "MiniMaxM2": ("mlp.gate", {"num_local_experts": 4}),
    "HYV3": ("mlp.gate", {"num_experts": 4, "first_k_dense_replace": 0}),
}


def read(folder: Path, model: nn.Module, place: str) -> tuple[Router, Tensor, Tensor]:
    """huref's router of block 1, the rows that a saved model's router reads, and its weights."""
    found: list[tuple[Tensor, Any]] = []
    block = model.get_submodule("model.layers.1")
    gate = block.get_submodule(place)
    gate.register_forward_hook(lambda _, inputs, output: found.append((inputs[0], output)))
    with torch.no_grad():
        model(torch.arange(3, 43)[None])
    (x, (_, weights, chosen)) = found[0]
    router = ModelReader(open_checkpoint(str(folder))).read_router(1)
    assert router is not None
    expected = torch.zeros(x.shape[-2], router.weight.shape[1])
    gain = block.get_parameter("post_attention_layernorm.weight")
    rows = (x.flatten(0, -2) / gain).float()
    return router, rows, expected.scatter(1, chosen.reshape(len(rows), -1), weights.float())


@pytest.mark.parametrize("family", FAMILIES)
def test_routers_weigh_as_the_family_does(family: str, tmp_path: Path) -> None:
    place, settings = FAMILIES[family]
    torch.manual_seed(1)
    kind = getattr(transformers, f"{family}Config")
    model = getattr(transformers, f"{family}ForCausalLM")(kind(**{**SIZES, **settings})).eval()
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith("embed_tokens.weight"):
            state[name] = torch.randn_like(tensor)
        elif name.endswith((f"{place}.bias", "correction_bias", f"{place}.weight")):
            state[name] = torch.randn_like(tensor) * 0.3
        elif "norm" in name:
            state[name] = torch.rand_like(tensor) + 0.5
    model.load_state_dict(state)
    model.save_pretrained(tmp_path / "mixture")
    write_tokenizer(tmp_path / "mixture", some_words(64))
    router, rows, expected = read(tmp_path / "mixture", model, place)
    torch.testing.assert_close(router.weigh(rows), expected, rtol=1e-4, atol=1e-5)
    assert (expected > 0).any(dim=0).sum() > 2  # not all tokens go to the same experts
