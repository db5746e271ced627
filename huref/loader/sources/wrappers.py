"""The config of the language model inside a multimodal model, and how its tensors begin."""

import re
from collections.abc import Mapping
from typing import Any

TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config", "text_model")
MAX_NESTING = 3
INHERITED = ("quantization_config",)  # keys of the outer config that apply to the inner model
INNER = re.compile(r"(?:.*?\.)?(?:language_model|language_backbone|llm|text_model|thinker)\.")
# A nested config omits settings that equal the defaults of its class in transformers.
DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "llama": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "mistral": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    "mixtral": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    "qwen2": {
        "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32,
    },
    "phi3": {
        "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "gemma": {
        "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256,
    },
    "gemma2": {
        "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    },
    "gemma3_text": {
        "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    },
}  # fmt: skip


def language_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the language model: the nested one, with the defaults of its class."""
    inner = dict(config)
    for _ in range(MAX_NESTING):
        nested = next((inner[k] for k in TEXT_CONFIGS if isinstance(inner.get(k), dict)), None)
        if nested is None:
            break
        inherited = {key: inner[key] for key in INHERITED if key in inner}
        model_type = nested.get("model_type")
        defaults = DEFAULTS.get(model_type, {}) if isinstance(model_type, str) else {}
        inner = {**defaults, **inherited, **nested}
    return inner


def is_wrapper(config: Mapping[str, Any]) -> bool:
    """Whether a config nests the config of a language model."""
    return any(isinstance(config.get(key), dict) for key in TEXT_CONFIGS)
