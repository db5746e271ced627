"""Settings of GGUF's metadata that have another form in config.json, or that llama.cpp knows.

llama.cpp scales rotary angles by `rope.scaling.*` (linear, YaRN), or divides the frequencies by the
numbers of the tensor `rope_freqs` (Llama 3, Gemma 4). What an architecture always has, such as an
activation, its files do not state.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

Setting = Callable[[str], Any]
FREQUENCY_FACTORS = "rope_freqs.weight"
SHORT_FACTORS = "rope_factors_short.weight"  # of Phi 3's long scaling
MOST_FACTORS = 4096  # planes of a head
# Every fourth block of these has no rotary embedding.
NO_ROTARY_STEP = {"smollm3": 4, "llama4_text": 4}
# Blocks of the one size whose scores are scaled by the width of a head's share of the stream.
SCALED_BY_WIDTH = {"gemma2": 46, "gemma3_text": 62}
GEMMA_LOCAL_BASE = 10000.0  # of rotary angles in sliding windows
RELU2 = ("nemotron", "nemotron_h", "arcee", "jais2", "bitnet")
GELU_TANH = ("gemma3n_text", "gemma4_text")
MINICPM = {"scale_emb": 12.0, "scale_depth": 1.4}
# Keys of the factor of all routed experts, of which each family has one.
ROUTED_SCALES = (
    "routed_scaling_factor", "router_scaling_factor", "route_scale", "moe_router_scaling_factor",
)  # fmt: skip
SOFTMAX = 1  # expert_gating_func of routers without sigmoids


def _routing(model_type: str, setting: Setting) -> dict[str, Any]:
    """How a mixture weighs its experts; files of DeepSeek 2 and 3 differ in nothing else."""
    if not setting("expert_count"):
        return {}
    found: dict[str, Any] = dict.fromkeys(ROUTED_SCALES, setting("expert_weights_scale") or 1.0)
    if (normalised := setting("expert_weights_norm")) is not None:
        found["norm_topk_prob"] = bool(normalised)
    if model_type == "deepseek_v3" and setting("expert_gating_func") in (None, SOFTMAX):
        found["model_type"] = "deepseek_v2"
    return found


def settings_of_type(model_type: str, setting: Setting, config: dict[str, Any]) -> dict[str, Any]:
    """Settings that only some architectures have, or write in another way.

    Args:
        model_type: the `model_type` of the published config.json.
        setting: gives one setting of the metadata.
        config: the settings that are known so far.
    """
    found: dict[str, Any] = {}
    extra = setting("nextn_predict_layers")
    blocks = config.get("num_hidden_layers")
    if type(extra) is int and type(blocks) is int and 0 < extra < blocks:
        found["num_hidden_layers"] = blocks - extra  # the others predict later tokens
    pattern = setting("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        kinds = ("full_attention", "sliding_attention")
        found["layer_types"] = [kinds[bool(is_sliding)] for is_sliding in pattern]
    elif type(pattern) is int and pattern > 1:  # one list whose items were equal, or a period
        found["sliding_window_pattern"] = pattern
    found |= _routing(model_type, setting)
    match model_type:
        case "gpt_bigcode":
            found["multi_query"] = config.get("num_key_value_heads") == 1
        case "falcon":
            kv_heads = config.get("num_kv_heads")
            found["multi_query"] = kv_heads == 1
            found["new_decoder_architecture"] = kv_heads != 1
        case "gemma4_text":
            if (local := setting("attention.key_length_swa")) is not None:
                found |= {"global_head_dim": config.get("head_dim"), "head_dim": local}
        case "dbrx":
            found["attn_config"] = {"kv_n_heads": config.get("num_key_value_heads")}
            found["ffn_config"] = {"moe_num_experts": config.get("num_experts")}
        case "chatglm":
            found["rmsnorm"] = True
        case "minicpm3":
            found |= MINICPM
        case "minicpm" if "embedding_multiplier" not in config:
            found |= MINICPM
    if model_type in RELU2:
        found["hidden_act"] = "relu2"
    if model_type in GELU_TANH:
        found["hidden_activation"] = "gelu_pytorch_tanh"
    if model_type.startswith("gemma3") and "rope_local_base_freq" not in config:
        found["rope_local_base_freq"] = GEMMA_LOCAL_BASE
    if (step := NO_ROTARY_STEP.get(model_type)) and type(blocks) is int and 0 < blocks < 10_000:
        found["no_rope_layers"] = [int((i + 1) % step != 0) for i in range(blocks)]
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if blocks == SCALED_BY_WIDTH.get(model_type) and type(width) is type(heads) is int and heads:
        found["query_pre_attn_scalar"] = width / heads
    return found


def rotary_scaling(
    setting: Setting, factors: Sequence[float], short: Sequence[float]
) -> dict[str, Any]:
    """What config.json has as `rope_scaling`; nothing where angles are not scaled.

    Args:
        setting: gives one setting of the metadata.
        factors: numbers by which the frequencies are divided, or none.
        short: likewise, in texts that are not longer than those of the first training.
    """
    if short:
        scaling: dict[str, Any] = {"rope_type": "longrope", "short_factor": list(short)}
        length = _positive(setting("rope.scaling.original_context_length"))
        scaling["original_max_position_embeddings"] = length
        scaling["attention_factor"] = _positive(setting("rope.scaling.attn_factor")) or 1.0
        return {"rope_scaling": scaling}
    if factors:
        return {"rope_scaling": {"rope_type": "factors", "factors": list(factors)}}
    kind = setting("rope.scaling.type")
    factor = _positive(setting("rope.scaling.factor"))
    if kind is None and (linear := _positive(setting("rope.scale_linear"))) is not None:
        kind, factor = "linear", linear
    if kind not in ("linear", "yarn") or factor is None:
        return {}
    found: dict[str, Any] = {"rope_type": kind, "factor": factor}
    numbers = {
        "original_max_position_embeddings": "original_context_length",
        "beta_fast": "yarn_beta_fast",
        "beta_slow": "yarn_beta_slow",
        "attention_factor": "attn_factor",
    }
    for key, name in numbers.items():
        if (number := _positive(setting(f"rope.scaling.{name}"))) is not None:
            found[key] = number
    if (log := _positive(setting("rope.scaling.yarn_log_multiplier"))) is not None:
        found["mscale"] = found["mscale_all_dim"] = 10 * log
    return {"rope_scaling": found}


def _positive(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value > 0 else None
