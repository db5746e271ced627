"""The language model inside a multimodal model."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from huref.loader.checkpoint import open_checkpoint
from huref.loader.sources.wrappers import DEFAULTS, language_config

PREFIXES = {
    "LLaVA as published": "language_model.model.",
    "LLaVA since transformers 4.52": "model.language_model.",
    "text model": "text_model.model.",
    "InternVL": "language_model.model.",
    "speech model": "thinker.model.",
}


@pytest.mark.parametrize("wrapper", PREFIXES)
def test_the_language_model_is_found(tmp_path: Path, wrapper: str) -> None:
    prefix = PREFIXES[wrapper]
    weight = torch.randn(6, 4)
    tensors = {
        f"{prefix}embed_tokens.weight": torch.randn(9, 4),
        f"{prefix}layers.0.mlp.up_proj.weight": weight,
        f"{prefix}layers.0.mlp.down_proj.weight": torch.randn(4, 6),
        "vision_tower.layers.0.mlp.up_proj.weight": torch.randn(3, 3),
        "vision_tower.text_model.layers.0.up_proj.weight": torch.randn(3, 3),
    }
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    text = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 4}
    key = "thinker_config" if "speech" in wrapper else "text_config"
    nested = {"text_config": text} if "speech" in wrapper else text
    config = {"model_type": "wrapper", key: nested, "vision_config": {"hidden_size": 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = open_checkpoint(str(tmp_path))
    name = next(n for n in checkpoint.names if n.endswith("layers.0.mlp.up_proj.weight"))
    assert name.removeprefix("model.") == "layers.0.mlp.up_proj.weight"
    assert torch.equal(checkpoint.read([name])[name], weight)
    assert not any("vision" in n for n in checkpoint.names)
    assert checkpoint.config["model_type"] == "llama"
    assert checkpoint.config["hidden_size"] == 4


def test_a_saved_llava_is_read_as_its_llama(tmp_path: Path) -> None:
    import transformers

    text = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        image_size=8, patch_size=4, projection_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=63)
    )
    model.save_pretrained(tmp_path)
    inner = model.model.language_model.state_dict()
    checkpoint = open_checkpoint(str(tmp_path))
    read = checkpoint.read(checkpoint.names)
    found = {name.removeprefix("model."): tensor for name, tensor in read.items()}
    for name, tensor in inner.items():
        assert torch.equal(found[name], tensor), name
    for key in ("hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers"):
        assert checkpoint.config[key] == getattr(text, key)


@pytest.mark.parametrize("model_type", DEFAULTS)
def test_defaults_are_those_of_transformers(model_type: str) -> None:
    import transformers

    config = transformers.AutoConfig.for_model(model_type)
    assert {key: getattr(config, key) for key in DEFAULTS[model_type]} == DEFAULTS[model_type]


def test_quantisation_settings_of_the_outer_config_are_inherited() -> None:
    inner = language_config(
        {"text_config": {"model_type": "llama", "hidden_size": 8}, "quantization_config": {"a": 1}}
    )
    assert inner["quantization_config"] == {"a": 1}
    assert (inner["hidden_size"], inner["num_hidden_layers"]) == (8, 32)
