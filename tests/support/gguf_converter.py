"""A GGUF file of a published checkpoint, as llama.cpp's conversion script writes it.

The names are those of the gguf package's tables. What the script does beyond names is done here,
after its documented behaviour: rows of q and k reordered for rotary pairs, norms plus one, experts
stacked, fused gates split, latent projections split by head, settings given by block.
"""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor

from tests.support.containers import config_of, interleave, load
from tests.support.small_models import some_words

KINDS = {name: kind for kind, name in gguf.constants.MODEL_ARCH_NAMES.items()}
PLUS_ONE = ("gemma", "gemma2", "gemma3", "nemotron", "qwen3next", "qwen35", "qwen35moe")
ROTARY_PAIRS = ("llama", "granite", "smollm3", "arcee", "olmo", "granitemoe", "granitehybrid",
                "nemotron_h", "nemotron_h_moe")  # fmt: skip
# Blocks of these may have no attention, which the script says by a list of key-value heads.
BY_BLOCK = (
    "lfm2", "lfm2moe", "kimi-linear", "granitehybrid", "nemotron_h", "nemotron_h_moe"
)  # fmt: skip
RENAMED = {"self_attn.attn_sub_norm": "self_attn.inner_attn_ln",
           "mlp.ffn_sub_norm": "mlp.ffn_layernorm"}  # fmt: skip
Named = Iterator[tuple[str, Tensor]]


def gguf_name(table: gguf.TensorNameMap, name: str) -> str | None:
    """The gguf package's name of a published tensor."""
    stem, _, suffix = name.rpartition(".")
    if suffix not in ("weight", "bias"):
        stem, suffix = name, "weight"
    found = table.get_name(stem) or table.get_name(f"{stem}.weight")
    return found and f"{found}.{suffix}"


def _block(name: str) -> str:
    """The number of the block of a published tensor; nothing outside blocks."""
    return next(iter(re.findall(r"\.(\d+)\.", name)), "")


def _split_gates(name: str, tensor: Tensor, architecture: str) -> Named | None:
    """Gate and up of a fused tensor, under names of their own; None for another tensor."""
    block = _block(name)
    if name.endswith("input_linear.weight"):  # Granite
        gate, up = tensor.chunk(2, dim=-2)
        part = "_exps" if "sparse" in name else "_shexp"
        return iter([(f"blk.{block}.ffn_gate{part}.weight", gate),
                     (f"blk.{block}.ffn_up{part}.weight", up)])  # fmt: skip
    if not name.endswith("experts.gate_up_proj"):
        return None
    if architecture in ("mistral4", "gemma4"):
        return iter([(f"blk.{block}.ffn_gate_up_exps.weight", tensor)])
    if architecture == "gpt-oss":  # in, out; gate and up by turns
        gate, up = tensor[..., 0::2].mT, tensor[..., 1::2].mT
    else:
        gate, up = (tensor.mT if architecture == "llama4" else tensor).chunk(2, dim=1)
    return iter([(f"blk.{block}.ffn_gate_exps.weight", gate),
                 (f"blk.{block}.ffn_up_exps.weight", up)])  # fmt: skip


def _split_latent(name: str, tensor: Tensor, config: dict[str, Any]) -> Named:
    """Keys, transposed by head, and values of a latent projection."""
    nope, value = config["qk_nope_head_dim"], config["v_head_dim"]
    heads = tensor.view(-1, nope + value, tensor.shape[-1])
    keys, values = heads[:, :nope], heads[:, nope:]
    block = _block(name)
    yield f"blk.{block}.attn_k_b.weight", keys.mT
    yield f"blk.{block}.attn_v_b.weight", values


def _changed(name: str, tensor: Tensor, architecture: str, config: dict[str, Any]) -> Named:
    """The tensors under which one published tensor is written; names starting blk. are final."""
    if (halves := _split_gates(name, tensor, architecture)) is not None:
        yield from halves
    elif name.endswith("kv_b_proj.weight"):
        yield from _split_latent(name, tensor, config)
    elif name.endswith("experts.down_proj"):
        turned = tensor.mT if architecture in ("gpt-oss", "llama4") else tensor
        yield f"blk.{_block(name)}.ffn_down_exps.weight", turned
    elif match := re.search(r"blocks\.(\d+)\.ffn\.experts\.mlp\.(\w\d)$", name):  # DBRX
        experts = tensor.view(config["ffn_config"]["moe_num_experts"], -1, tensor.shape[-1])
        role = {"w1": "gate", "v1": "up", "w2": "down"}[match[2]]
        yield f"blk.{match[1]}.ffn_{role}_exps.weight", experts.mT if role == "down" else experts
    elif name.endswith("router.scale"):  # Gemma 4
        yield f"blk.{_block(name)}.ffn_gate_inp.scale", tensor
    elif name.endswith("router.per_expert_scale"):
        yield f"blk.{_block(name)}.ffn_down_exps.scale", tensor
    elif ".q_proj." in name and architecture in ROTARY_PAIRS:
        yield name, interleave(tensor, config["num_attention_heads"])
    elif ".k_proj." in name and architecture in ROTARY_PAIRS:
        yield name, interleave(tensor, config["num_key_value_heads"])
    elif re.search(r"correction_bias$|expert_bias$", name):
        yield f"blk.{_block(name)}.exp_probs_b.bias", tensor.flatten()
    elif tensor.dim() < 4 and not re.search(r"altup_\w*proj", name):
        yield name, tensor


def _with_stacks(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors, with experts, and gains of heads, stacked in one tensor."""
    found: dict[str, Tensor] = {}
    stacks: dict[str, dict[int, Tensor]] = {}
    heads: dict[str, dict[int, Tensor]] = {}
    for name, tensor in published.items():
        if match := re.fullmatch(r"(.*layernorm)\.norms\.(\d+)\.weight", name):  # StableLM's heads
            heads.setdefault(f"{match[1]}.weight", {})[int(match[2])] = tensor
        elif match := re.fullmatch(r"(.*experts)\.(\d+)\.(\w+)\.weight", name):
            stacks.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = tensor
        else:
            found[name] = tensor
    for name, gains in heads.items():
        found[name] = torch.stack([gains[h] for h in sorted(gains)])
    for stem, experts in stacks.items():
        role = {"w1": "gate", "w2": "down", "w3": "up"}.get(stem.rpartition(".")[2])
        role = role or stem.rpartition(".")[2].removesuffix("_proj")
        stack = torch.stack([experts[e] for e in sorted(experts)])
        found[f"blk.{_block(stem)}.ffn_{role}_exps.weight"] = stack
    return found


def converted(folder: Path, architecture: str) -> dict[str, Tensor]:
    """The tensors of the GGUF file, as the conversion script names and changes them."""
    config = config_of(folder)
    table = gguf.get_tensor_name_map(KINDS[architecture], _blocks(config))
    written = {}
    for published, tensor in _with_stacks(load(folder)).items():
        if published.startswith("blk."):
            written[published] = tensor.float()
            continue
        for name, changed in _changed(published, tensor, architecture, config):
            for ours, theirs in RENAMED.items():
                name = name.replace(ours, theirs)
            target = name if name.startswith("blk.") else gguf_name(table, name)
            if target is not None:
                is_norm = name.endswith("norm.weight") and "linear_attn" not in name
                plus = 1 if architecture in PLUS_ONE and is_norm else 0
                written[target] = changed.float() + plus
    return written


def _first(config: dict[str, Any], *keys: str) -> Any:
    """The value of the first key that the config or its parts have; None where none has one."""
    parts = ("attn_config", "ffn_config", "rope_parameters")
    for table in (config, *(config.get(part, {}) for part in parts)):
        for key in keys:
            if isinstance(table, dict) and table.get(key) is not None:
                return table[key]
    return None


def _blocks(config: dict[str, Any]) -> int:
    return int(_first(config, "num_hidden_layers", "n_layers") or len(config["layers_block_type"]))


def _groups(architecture: str, config: dict[str, Any]) -> Any:
    """The number of key-value heads, as a list where the script writes one."""
    groups = _first(config, "num_key_value_heads", "kv_n_heads")
    if "kv_lora_rank" in config:
        groups = 1  # with one latent for all heads
    kinds = _first(config, "layer_types", "layers_block_type")
    if architecture == "gemma4" and config.get("num_global_key_value_heads"):
        both = (config["num_global_key_value_heads"], groups)
        return [both[kind == "sliding_attention"] for kind in kinds]
    if architecture == "mimo2":
        return [groups] * (_blocks(config) + 3)
    if period := config.get("attn_layer_period"):  # Jamba
        offset = config["attn_layer_offset"]
        return [groups if i % period == offset else 0 for i in range(_blocks(config))]
    if architecture in BY_BLOCK:
        return [groups if kind in ("full_attention", "attention") else 0 for kind in kinds]
    return groups


def _write_settings(writer: gguf.GGUFWriter, architecture: str, config: dict[str, Any]) -> None:
    later = 3 if architecture == "mimo2" else 0  # blocks that predict later tokens
    writer.add_block_count(_blocks(config) + later)
    if later:
        writer.add_uint32(f"{architecture}.nextn_predict_layers", later)
    width = _first(config, "intermediate_size", "ffn_hidden_size")
    if architecture.startswith("nemotron_h"):
        width = [width if kind == "mlp" else 0 for kind in config["layers_block_type"]]
    if width is not None:
        writer.add_feed_forward_length(width)
    writer.add_head_count_kv(_groups(architecture, config))
    _write_sizes_of_heads(writer, architecture, config)
    optional: list[tuple[Callable[[Any], None], tuple[str, ...]]] = [
        (writer.add_embedding_length, ("hidden_size", "d_model")),
        (writer.add_head_count, ("num_attention_heads", "n_heads")),
        (writer.add_expert_count, ("num_local_experts", "num_experts", "n_routed_experts",
                                   "moe_num_experts")),
        (writer.add_expert_feed_forward_length, ("moe_intermediate_size",)),
        (writer.add_leading_dense_block_count, ("first_k_dense_replace", "num_dense_layers")),
        (writer.add_shared_kv_layers, ("num_kv_shared_layers",)),
        (writer.add_layer_norm_rms_eps, ("rms_norm_eps", "norm_eps")),
        (writer.add_attention_scale, ("attention_multiplier",)),
        (writer.add_embedding_scale, ("embedding_multiplier",)),
        (writer.add_residual_scale, ("residual_multiplier",)),
        (writer.add_expert_used_count, ("num_experts_per_tok", "moe_top_k")),
        (writer.add_expert_weights_scale, ("routed_scaling_factor", "router_scaling_factor",
                                           "route_scale", "moe_router_scaling_factor")),
        (writer.add_expert_weights_norm, ("norm_topk_prob",)),
        (writer.add_expert_group_count, ("n_group",)),
        (writer.add_expert_group_used_count, ("topk_group",)),
        (writer.add_layer_norm_eps, ("layer_norm_eps", "layer_norm_epsilon")),
    ]  # fmt: skip
    for add, keys in optional:
        if (value := _first(config, *keys)) is not None:
            add(value)
    if architecture in ("gemma3n", "gemma4", "mimo2"):
        kinds = [kind == "sliding_attention" for kind in config["layer_types"]]
        writer.add_sliding_window_pattern(kinds + [True] * later)
    if config["model_type"] == "deepseek_v3":
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if (cap := config.get("attn_logit_softcapping")) is not None:
        writer.add_attn_logit_softcapping(cap)
    _write_rotary(writer, architecture, config)


def _rotary(config: dict[str, Any]) -> dict[str, Any]:
    """The rotary settings of blocks with full attention."""
    settings: dict[str, Any] = config.get("rope_parameters") or {}
    full: dict[str, Any] = settings.get("full_attention", settings)
    return full


def _write_rotary(writer: gguf.GGUFWriter, architecture: str, config: dict[str, Any]) -> None:
    settings = _rotary(config)
    if (theta := settings.get("rope_theta")) is not None:
        writer.add_rope_freq_base(theta)
    local = config.get("rope_parameters", {}).get("sliding_attention", {}).get("rope_theta")
    if local is not None and architecture != "gemma3n":  # which llama.cpp knows
        writer.add_rope_freq_base_swa(local)
    share, kind = settings.get("partial_rotary_factor"), settings.get("rope_type")
    if share is not None and kind != "proportional" and "kv_lora_rank" not in config:
        heads = _first(config, "num_attention_heads")
        writer.add_rope_dimension_count(
            int((config.get("head_dim") or config["hidden_size"] // heads) * share)
        )
    if kind == "longrope":
        length = settings["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(length)
        scale = config["max_position_embeddings"] / length
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(length)))
    if kind not in ("linear", "yarn"):
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
    writer.add_rope_scaling_factor(settings["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(settings["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(settings["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(settings["beta_slow"])
    if (scale := settings.get("mscale_all_dim")) is not None:
        writer.add_rope_scaling_yarn_log_mul(0.1 * scale)


def frequency_factors(config: dict[str, Any]) -> Tensor | None:
    """What the script writes as rope_freqs: Llama 3's scaling, and Gemma 4's planes at rest."""
    settings = _rotary(config)
    size = (
        config.get("global_head_dim")
        or config.get("head_dim")
        or (
            _first(config, "hidden_size", "d_model")
            // _first(config, "num_attention_heads", "n_heads")
        )
    )
    if settings.get("rope_type") == "proportional":
        own = [values.get("head_dim") for values in config.get("per_layer_config", {}).values()]
        size = config.get("global_head_dim") or next(iter(own), None) or config["head_dim"]
        turning = int(size * settings["partial_rotary_factor"]) // 2
        return torch.tensor([1.0] * turning + [1e30] * (size // 2 - turning))
    if settings.get("rope_type") != "llama3":
        return None
    wavelength = 2 * torch.pi * settings["rope_theta"] ** (torch.arange(0, size, 2) / size)
    length = settings["original_max_position_embeddings"]
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    smooth = (length / wavelength - low) / (high - low)
    between = 1 / ((1 - smooth) / settings["factor"] + smooth)
    factors = torch.where(wavelength > length / low, settings["factor"], between)
    return torch.where(wavelength < length / high, 1.0, factors)


def _write_sizes_of_heads(
    writer: gguf.GGUFWriter, architecture: str, config: dict[str, Any]
) -> None:
    if "kv_lora_rank" in config:
        _write_latent(writer, config)
        return
    if not config.get("head_dim") or architecture.startswith("granite"):
        return
    own = [values.get("head_dim") for values in config.get("per_layer_config", {}).values()]
    full = config.get("global_head_dim") or next(iter(own), None)
    writer.add_key_length(full or config["head_dim"])
    if full:
        writer.add_key_length_swa(config["head_dim"])
    if architecture == "mimo2":
        writer.add_value_length(config["v_head_dim"])


def _write_latent(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    rank, rotary = config["kv_lora_rank"], config["qk_rope_head_dim"]
    if config.get("q_lora_rank") is not None:
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(rank)
    writer.add_key_length(rank + rotary)
    writer.add_value_length(rank)
    writer.add_key_length_mla(config["qk_nope_head_dim"] + rotary)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_rope_dimension_count(rotary)


def convert(folder: Path, file: Path, architecture: str) -> None:
    """Write the GGUF file of a published checkpoint.

    Args:
        folder: config.json and safetensors of a model with at most 96 tokens.
        file: where to write.
        architecture: GGUF's name of it.
    """
    config = config_of(folder)
    writer = gguf.GGUFWriter(file, architecture)
    _write_settings(writer, architecture, config)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(some_words(config["vocab_size"]))
    writer.add_token_types([1] * config["vocab_size"])
    for name, tensor in converted(folder, architecture).items():
        writer.add_tensor(name, tensor.contiguous().numpy())
    if (factors := frequency_factors(config)) is not None:
        writer.add_tensor("rope_freqs.weight", factors.float().numpy())
    for length in ("long", "short"):  # Phi 3's
        if long_scaled := _rotary(config).get(f"{length}_factor"):
            name = f"rope_factors_{length}.weight"
            writer.add_tensor(name, torch.tensor(long_scaled).float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
