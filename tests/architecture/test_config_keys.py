"""Which settings and tensors a family's module uses, by what changes its logits."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from huref.architecture.complete_config import KEYS, as_run, names_as_run, routed_scale
from huref.architecture.running import EXACT
from tests.loader.test_decoys import Pair, pair, save

__all__ = ["pair"]  # a fixture

TABLE = yaml.safe_load(KEYS.read_text("utf-8"))
TINY = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "max_position_embeddings": 64, "head_dim": 8, "num_local_experts": 2,
    "num_experts_per_tok": 2, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
    "ffn_dim": 48, "word_embed_proj_dim": 32, "rotary_dim": 8,
}  # fmt: skip
# Another value of each setting than any family's default.
OTHER: dict[str, Any] = {
    "scale_attn_by_inverse_layer_idx": True, "no_rope_layers": [0, 0], "rotary_dim": 4,
    "qk_rope_head_dim": 4, "use_parallel_residual": False, "parallel_attn": False, "alibi": True,
    "attn_logit_softcapping": 0.01, "final_logit_softcapping": 0.01, "partial_rotary_factor": 0.75,
    "query_pre_attn_scalar": 3,
    "rotary_pct": 0.75, "n_head": 2, "num_heads": 2, "num_layers": 1, "n_layer": 1,
}  # fmt: skip
ACTIVATIONS = (
    "hidden_activation", "hidden_act", "activation_function", "hidden_function", "act_fn",
    "mlp_hidden_act", "activation",
)  # fmt: skip
# gemma's was read from this key by earlier versions; the other two are read at a class's first use.
NOT_SEEN = {
    "gemma": {"hidden_activation"},
    "gpt_neox": {"rotary_emb_base", "rotary_pct", "partial_rotary_factor"},
    "stablelm": {"partial_rotary_factor"},
    "gemma3_text": {"attn_logit_softcapping", "final_logit_softcapping"},
}
QUICK = ("llama", "gpt2", "gemma2")
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in EXACT if kind not in QUICK]


def run(model_type: str, changes: Mapping[str, Any], weights: dict[str, Tensor] | None) -> Any:
    """A tiny module of a family, with some settings."""
    import transformers

    defaults = transformers.AutoConfig.for_model(model_type)
    known = {
        key: value
        for key, value in TINY.items()
        if hasattr(defaults, key) or key in defaults.attribute_map
    }
    config = type(defaults).from_dict({"model_type": model_type, **known, **changes})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter.ndim == 1))
    if weights is not None:
        model.load_state_dict(weights)
    return model.eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(torch.arange(1, 20)[None]).logits
    return found


@pytest.mark.parametrize("model_type", [*QUICK, *SLOW])
def test_settings_that_change_nothing_are_passed_over(model_type: str) -> None:
    model = run(model_type, {}, None)
    before, weights = logits(model), model.state_dict()
    used = set()
    for key in TABLE["of_families"]:
        default = "tanh" if key in ACTIVATIONS else 3.0
        try:
            changed = logits(run(model_type, {key: OTHER.get(key, default)}, weights))
        except (RuntimeError, ValueError, TypeError, KeyError):
            used.add(key)  # the module could not be made with it
            continue
        if changed.shape != before.shape or not torch.equal(changed, before):
            used.add(key)
    assert used - set(TABLE["uses"][model_type]) == set()
    extra = set(TABLE["uses"][model_type]) - used
    aliased = set(TABLE["aliases"].get(model_type, {}).values())
    assert extra <= NOT_SEEN.get(model_type, set()) | aliased


@pytest.mark.parametrize("model_type", TABLE["aliases"])
def test_an_alias_is_written_over_the_key(model_type: str) -> None:
    import transformers

    kind = type(transformers.AutoConfig.for_model(model_type))
    for alias, key in TABLE["aliases"][model_type].items():
        assert kind.attribute_map[alias] == key
        config = {"model_type": model_type, alias: 8, key: 4}
        assert getattr(kind.from_dict(config), key) == as_run(config)[key] == 8


@pytest.mark.parametrize("model_type", TABLE["biases"])
def test_biases_and_head_norms_are_the_modules(model_type: str) -> None:
    for flag in (True, False):
        settings = {"attention_bias": flag, "mlp_bias": flag}
        names = set(run(model_type, settings, None).state_dict())
        blocks = {name for name in names if ".layers." in name}
        matrices = {name for name in blocks if name.endswith("_proj.weight")}
        decoys = {name.removesuffix("weight") + "bias" for name in matrices}
        decoys |= {f"model.layers.0.self_attn.{role}_norm.weight" for role in "qk"}
        config = {"model_type": model_type, **settings}
        kept = names_as_run(config, names | decoys)
        assert names <= kept
        allowed = set() if model_type in TABLE["without_head_norms"] else decoys
        assert {n for n in kept - names if n.endswith("bias")} == set()
        assert kept - names <= allowed


def test_rotary_settings_given_twice(pair: Pair, tmp_path: Path) -> None:
    """`rope_scaling` is taken over `rope_parameters`, as transformers does."""
    import transformers

    from huref.architecture.layout_files import load_layouts
    from huref.architecture.running import running

    twice = {
        "rope_theta": 5.0, "rope_scaling": {"type": "linear", "factor": 4.0},
        "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"},
    }  # fmt: skip
    config = pair.config | twice
    (tmp_path / "config.json").write_text(json.dumps(config))
    save(pair.real, tmp_path / "model.safetensors")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    positions = torch.arange(6)[None]
    cosines, _ = model.model.rotary_emb(torch.zeros(1, 6, 32), positions)
    layout = next(layout for layout in load_layouts() if layout.name == "llama")
    rotation = running(layout, config, 32, learned=False).rotation(1, 8, 6)
    assert rotation is not None
    torch.testing.assert_close(rotation[0], cosines[0, :, :4])


@pytest.mark.slow
def test_what_mixtures_multiply_their_routed_experts_by() -> None:
    """Of every family whose module reads such a setting: its key and its default."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    found: dict[str, dict[str, float]] = {key: {} for key in TABLE["routed_scales"]}
    for model_type in (name for name in CONFIG_MAPPING if "vision" not in name):
        kind = CONFIG_MAPPING[model_type]
        file = Path(inspect.getfile(kind))
        module = file.with_name(file.name.replace("configuration_", "modeling_"))
        for key in found if module.exists() else ():
            if f"{key}: " in file.read_text("utf-8") and hasattr(kind, key):
                read = {key, *(alias for alias, k in kind.attribute_map.items() if k == key)}
                family = model_type.removesuffix("_text")
                if any(name in module.read_text("utf-8") for name in read):
                    found[key][family] = getattr(kind(), key)
    assert found == TABLE["routed_scales"]


def test_such_settings_of_other_families_are_passed_over() -> None:
    stated = {"routed_scaling_factor": 1e-9}
    assert routed_scale({"model_type": "glm4_moe", **stated}) == 1e-9
    assert routed_scale({"model_type": "glm4v_moe_text", "routed_scaling_factor": 0}) == 0
    assert routed_scale({"model_type": "deepseek_v3"}) == 2.5
    for family in ("qwen3_moe", "mixtral", "hy_v3"):
        assert routed_scale({"model_type": family, **stated}) == routed_scale(
            {"model_type": family}
        )
