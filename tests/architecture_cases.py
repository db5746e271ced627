"""One line for every model_type that transformers has: how to make a tiny model of it.

A key is a model_type, with a word behind it for its variants.

A tiny config gives every size that a config class knows by one of its many names; a case says
only what is different. `scaled` marks models that multiply a half by a constant (a residual or
attention multiplier), which no correlation sees.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

TINY: dict[str, Any] = {
    "vocab_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_size": 48, "n_embd": 48, "d_model": 48, "dim_model": 48,
    "num_hidden_layers": 4, "n_layer": 4, "num_layers": 4, "n_layers": 4,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4,
    "num_key_value_heads": 2, "num_kv_heads": 2, "head_dim": 12, "rotary_dim": 4,
    "intermediate_size": 80, "n_inner": 80, "ffn_dim": 80, "ffn_hidden_size": 80, "dim_ff": 80,
    "dff": 80, "expansion_ratio": 2,
    "max_position_embeddings": 64, "n_positions": 64, "max_seq_len": 64,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 4,
    "moe_topk": 4, "moe_k": 4, "top_k": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
    "moe_intermediate_size": 40, "first_k_dense_replace": 1, "norm_topk_prob": True,
    "routed_scaling_factor": 1.0, "topk_method": "greedy",
    "kv_lora_rank": 16, "q_lora_rank": 20, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12,
    "v_head_dim": 10,
}  # fmt: skip


def leave(model: nn.Module) -> None:
    """No preparation."""


@dataclass(frozen=True)
class Case:
    """How to make a tiny model and which of its layers to compare.

    Attributes:
        class_name: of transformers.
        changes: config values; None leaves a value of `TINY` out.
        index: the layer.
        width: of the residual stream, where it is not that of the embedding.
        scaled: compare up to a constant factor.
        oracle: arguments of `module_terms`.
        prepare: what else makes the module linear.
    """

    class_name: str
    changes: dict[str, Any] = field(default_factory=dict)
    index: int = 2
    width: int = 0
    scaled: bool = False
    oracle: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[nn.Module], None] = leave

    @property
    def model_class(self) -> Any:
        """The class, imported when it is asked for: there are a hundred of them."""
        return getattr(transformers, self.class_name)


def tiny_config(case: Case) -> transformers.PreTrainedConfig:
    """The config of a case: every name of a size that its class knows, and the case's changes."""
    config_class = case.model_class.config_class
    defaults = config_class()
    sizes = {key: value for key, value in TINY.items() if hasattr(defaults, key)}
    values = {k: v for k, v in (sizes | case.changes).items() if v is not None}
    if "q_lora_rank" in case.changes:
        values["q_lora_rank"] = case.changes["q_lora_rank"]
    config = config_class(**values)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    return config


class EvenRouter(nn.Module):
    """Sends every token to all experts with equal weights."""

    def __init__(self, experts: int):
        super().__init__()
        self.experts = experts

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        shape = (len(x), self.experts)
        even = torch.full(shape, 1 / self.experts, dtype=x.dtype)
        return torch.zeros(shape), even, torch.arange(self.experts).expand(shape)


def route_evenly(model: nn.Module) -> None:
    """For PhiMoE, whose router always chooses two experts."""
    for module in model.modules():
        if hasattr(module, "router"):
            module.router = EvenRouter(4)


def unclamp(model: nn.Module) -> None:
    """For gpt-oss: no clamp, and a constant instead of its gate's sigmoid."""
    for module in model.modules():
        if hasattr(module, "alpha") and hasattr(module, "limit"):
            module.alpha, module.limit = 0.0, 1e300


def fill_residual_gains(model: nn.Module) -> None:
    """For Doge, which scales its residual stream by vectors of its own."""
    for name, parameter in model.named_parameters():
        if name.endswith("_residual"):
            parameter.data.fill_(1.0)


def case(model_type: str, **parts: Any) -> Case:
    """A case of the class that transformers' auto mapping names; `cls` names another."""
    return Case(parts.pop("cls", None) or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type], **parts)


LATENT = {"head_dim": 8, "num_key_value_heads": 4}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 12,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}  # fmt: skip
HALF = {"layer_types": ["linear_attention", "full_attention", "full_attention", "linear_attention"]}
WIDE = {"hidden_size": 64, "head_dim": None}

CASES: dict[str, Case] = {
    # llama.yaml
    "llama": case("llama"),
    "mistral": case("mistral", changes={"head_dim": 16}),
    "mixtral": case("mixtral"),
    "qwen2": case("qwen2"),
    "qwen2_moe": case("qwen2_moe", changes={"shared_expert_intermediate_size": 40}),
    "qwen3": case("qwen3"),
    "qwen3_moe": case("qwen3_moe"),
    "phi3": case("phi3"),
    "granite": case("granite", scaled=True, changes={"residual_multiplier": 0.3}),
    "granite_swa": case("granite_swa"),
    "smollm3": case("smollm3"),
    "ernie4_5": case("ernie4_5"),
    "ernie4_5_moe": case("ernie4_5_moe"),
    "seed_oss": case("seed_oss"),
    "hunyuan_v1_dense": case("hunyuan_v1_dense"),
    "hunyuan_v1_moe": case("hunyuan_v1_moe"),
    "minimax_m2": case("minimax_m2"),
    "olmoe": case("olmoe"),
    "cwm": case("cwm"),
    "ministral": case("ministral"),
    "ministral3": case("ministral3"),
    "helium": case("helium"),
    "glm": case("glm"),
    "glm4_moe": case("glm4_moe"),
    "dots1": case("dots1"),
    "exaone_moe": case("exaone_moe"),
    "mellum": case("mellum"),
    "solar_open": case("solar_open"),
    "hy_v3": case("hy_v3", changes={"router_scaling_factor": 1.0}),
    "flint": case("flint"),
    "laguna": case("laguna", scaled=True),
    "mimo_v2_flash": case("mimo_v2_flash", scaled=True),
    "doge": case("doge", prepare=fill_residual_gains),
    "emu3_text_model": case("emu3"),
    "mllama_text_model": case("mllama"),
    # gemma*.yaml
    "gemma": case("gemma"),
    "gemma2": case("gemma2"),
    "gemma3_text": case("gemma3_text"),
    "vaultgemma": case("vaultgemma"),
    "recurrent_gemma": case("recurrent_gemma"),
    # norms elsewhere or of another kind
    "beam": case("beam", scaled=True),
    "afmoe": case("afmoe"),
    "glm4": case("glm4"),
    "kolibri1": case("kolibri1"),
    "hyperclovax": case("hyperclovax"),
    "olmo": case("olmo"),
    "olmo2": case("olmo2"),
    "olmo3": case("olmo3"),
    "olmo_hybrid": case("olmo_hybrid", index=3),
    "exaone4": case("exaone4"),
    "flex_olmo": case("flex_olmo"),
    "stablelm": case("stablelm", changes=WIDE),
    "stablelm parallel": case(
        "stablelm",
        changes=WIDE | {"use_parallel_residual": True, "qk_layernorm": True},
    ),
    "phimoe": case("phimoe", prepare=route_evenly),
    "cohere": case("cohere"),
    "cohere norms": case("cohere", changes={"use_qk_norm": True}),
    "cohere2": case("cohere2"),
    "cohere2_moe": case("cohere2_moe"),
    "bitnet": case("bitnet"),
    "nanochat": case("nanochat"),
    "apertus": case("apertus"),
    "modernbert-decoder": case("modernbert-decoder"),
    "minimax": case("minimax", changes=HALF, oracle={"drop_norms": True}),
    "diffllama": case("diffllama", scaled=True),
    "moshi": case("moshi"),
    # ungated
    "starcoder2": case("starcoder2"),
    "jais2": case("jais2"),
    "nemotron": case("nemotron"),
    "arcee": case("arcee"),
    "phi": case("phi", changes={"hidden_size": 64}),
    "persimmon": case("persimmon"),
    "gpt_neox": case("gpt_neox"),
    "gpt_neox_japanese": case("gpt_neox_japanese"),
    "bloom": case(
        "bloom", oracle={"ffn": ("mlp.dense_4h_to_h",), "silent": ("self_attention.dense",)}
    ),
    "gptj": case("gptj"),
    "codegen": case("codegen"),
    "gpt2": case("gpt2"),
    "openai-gpt": case("openai-gpt", oracle={"drop_norms": True}),
    "gpt_bigcode": case("gpt_bigcode"),
    "gpt_bigcode many": case("gpt_bigcode", changes={"multi_query": False}),
    "gpt_neo": case("gpt_neo", changes={"attention_types": [[["global", "local"], 2]]}),
    "opt": case("opt", changes={"word_embed_proj_dim": 48}, scaled=True),
    "opt 350m": case(
        "opt",
        changes={"word_embed_proj_dim": 24, "do_layer_norm_before": False},
        width=48,
        scaled=True,
        oracle={"drop_norms": True},
    ),
    "xglm": case("xglm", scaled=True),
    "biogpt": case("biogpt"),
    "mpt": case("mpt", oracle={"ffn": ("ffn.down_proj",)}),
    "ctrl": case("ctrl"),
    # latent attention
    "deepseek_v2": case("deepseek_v2", changes=LATENT),
    "deepseek_v2 lite": case("deepseek_v2", changes=LATENT | {"q_lora_rank": None}),
    "deepseek_v3": case("deepseek_v3", changes=LATENT),
    "glm4_moe_lite": case("glm4_moe_lite", changes=LATENT),
    "minicpm3": case("minicpm3", changes=LATENT, scaled=True),
    "youtu": case("youtu", changes=LATENT),
    "axk1": case("axk1", changes=LATENT),
    # stacked experts
    "gpt_oss": case("gpt_oss", oracle={"even": True}, prepare=unclamp, scaled=True),
    "granitemoe": case("granitemoe"),
    "granitemoeshared": case(
        "granitemoeshared",
        changes={"shared_intermediate_size": 64},
        oracle={"ffn": ("block_sparse_moe", "shared_mlp")},
    ),
    "granitemoe_swa": case("granitemoe_swa"),
    "aria_text": case("aria_text", changes={"moe_num_experts": 4}),
    "llama4_text": case("llama4_text"),
    "dbrx": case(
        "dbrx",
        changes={
            "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 1e30},
            "ffn_config": {"ffn_hidden_size": 40, "moe_num_experts": 4, "moe_top_k": 4},
        },
        oracle={"attention": ("norm_attn_norm.attn",)},
    ),
    # hybrids
    "jamba": case("jamba", changes={"attn_layer_period": 2, "attn_layer_offset": 0}),
    "bamba": case("bamba", changes=MAMBA | {"attn_layer_indices": [1, 2]}),
    "falcon_h1": case(
        "falcon_h1",
        changes={"mamba_n_heads": 8, "mamba_d_head": 12, "mamba_d_ssm": 96, "mamba_n_groups": 1}
        | {"mamba_chunk_size": 8},
        oracle={"ffn": ("feed_forward", "mamba"), "silent": ("self_attn", "mamba")},
        scaled=True,
    ),
    "granitemoehybrid": case(
        "granitemoehybrid",
        changes=MAMBA
        | {"layer_types": ["mamba", "attention", "attention", "mamba"]}
        | {"shared_intermediate_size": 64},
        oracle={"ffn": ("block_sparse_moe", "shared_mlp")},
    ),
    "nemotron_h": case(
        "nemotron_h",
        changes={
            "num_hidden_layers": 6,
            "layers_block_type": ["mamba", "attention", "moe", "attention", "mlp", "mamba"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 12,
            "n_groups": 1,
            "moe_shared_expert_intermediate_size": 64,
        },
        index=1,
        oracle={"ffn_index": 2},
    ),
    "lfm2": case("lfm2", changes={"layer_types": ["conv", "full_attention"] * 2}, index=1),
    "lfm2_moe": case(
        "lfm2_moe",
        changes={"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
        index=1,
    ),
    "lfm3": case("lfm3"),
    "qwen3_next": case(
        "qwen3_next", changes=LINEAR | {"shared_expert_intermediate_size": 40}, index=3
    ),
    "qwen3_5_text": case("qwen3_5_text", changes=LINEAR, index=3),
    "qwen3_5_moe_text": case(
        "qwen3_5_moe_text", changes=LINEAR | {"shared_expert_intermediate_size": 40}, index=3
    ),
    "kimi_linear": case(
        "kimi_linear", changes=LATENT | HALF | {"linear_num_heads": 2, "linear_head_dim": 8}
    ),
    "mistral4": case("mistral4", cls="Mistral4ForCausalLM", changes=LATENT | {"head_dim": 20}),
    "falcon": case("falcon", changes={"head_dim": None, "num_kv_heads": None}),
    "falcon 40b": case("falcon", changes={"head_dim": None, "new_decoder_architecture": True}),
    "falcon rw": case(
        "falcon",
        changes={
            "head_dim": None,
            "num_kv_heads": None,
            "multi_query": False,
            "parallel_attn": False,
        },
    ),
    "deepseek_v32": case("deepseek_v32", changes=LATENT),
    "glm_moe_dsa": case("glm_moe_dsa", changes=LATENT),
}
