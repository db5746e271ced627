"""How to make a tiny model of any model_type of transformers.

`TINY` holds small sizes under all the names that config classes use; a case lists only what
differs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import transformers
from torch import nn
from transformers.integrations.heterogeneity.configuration_utils import (
    AmbiguousGlobalPerLayerAttributeError,
)
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
    """How to make a tiny model, and which of its layers to compare.

    Attributes:
        class_name: of transformers.
        changes: config values; None removes a value of `TINY`.
        index: of the layer.
        width: of the residual stream, where it differs from the embedding's.
        scaled: compare up to a constant factor.
        oracle: arguments of `module_terms`.
        prepare: further steps that make the module linear.
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
        """The class; imported only on access, because there are a hundred of them."""
        return getattr(transformers, self.class_name)


def _has(config: transformers.PreTrainedConfig, key: str) -> bool:
    try:
        return hasattr(config, key)
    except AmbiguousGlobalPerLayerAttributeError:  # it has the key, with a value per block
        return True


def tiny_config(case: Case) -> transformers.PreTrainedConfig:
    """The config of a case: the sizes of `TINY` that its class has, and the case's changes."""
    config_class = case.model_class.config_class
    defaults = config_class()
    sizes = {key: value for key, value in TINY.items() if _has(defaults, key)}
    values = {k: v for k, v in (sizes | case.changes).items() if v is not None}
    if "q_lora_rank" in case.changes:
        values["q_lora_rank"] = case.changes["q_lora_rank"]
    config = config_class(**values)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    return config


def case(model_type: str, **parts: Any) -> Case:
    """A case of the class in transformers' auto mapping, or of the class `cls`."""
    return Case(parts.pop("cls", None) or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type], **parts)
