"""GGUF files of tiny models of transformers, written after llama.cpp's conversion script.

All tensors of all blocks read from the GGUF file must be those of the blocks read from the
published checkpoint, whose arithmetic tests/architecture compares with transformers' own. The
converter is the tests' own: `tests.support.gguf_converter`.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import huref
from huref.architecture.block import Mixture
from huref.architecture.reader import ModelReader
from huref.architecture.running import running
from huref.loader.checkpoint import open_checkpoint
from tests.support.architecture_case import tiny_config
from tests.support.architecture_cases import CASES
from tests.support.gguf_converter import convert
from tests.support.module_oracle import randomise
from tests.support.small_models import some_words, write_tokenizer

# GGUF's name of an architecture -> the cases of tests/support/architecture_cases.py.
CONVERTED = {
    "afmoe": ["afmoe"],
    "apertus": ["apertus"],
    "arcee": ["arcee"],
    "bitnet": ["bitnet"],
    "cohere2": ["cohere2"],
    "command-r": ["cohere", "cohere norms"],
    "dbrx": ["dbrx"],
    "deepseek2": ["deepseek_v2", "deepseek_v2 lite", "deepseek_v3"],
    "dots1": ["dots1"],
    "ernie4_5": ["ernie4_5"],
    "ernie4_5-moe": ["ernie4_5_moe"],
    "exaone-moe": ["exaone_moe"],
    "exaone4": ["exaone4"],
    "falcon-h1": ["falcon_h1"],
    "gemma": ["gemma"],
    "gemma2": ["gemma2"],
    "gemma3": ["gemma3_text"],
    "gemma3n": ["gemma3n_text"],
    "gemma4": ["gemma4_text", "gemma4_text experts"],
    "glm-dsa": ["glm_moe_dsa"],
    "glm4": ["glm4"],
    "glm4moe": ["glm4_moe"],
    "gpt-oss": ["gpt_oss"],
    "granite": ["granite"],
    "granitehybrid": ["granitemoehybrid"],
    "granitemoe": ["granitemoe", "granitemoeshared"],
    "hunyuan-dense": ["hunyuan_v1_dense"],
    "hunyuan-moe": ["hunyuan_v1_moe"],
    "jais2": ["jais2"],
    "jamba": ["jamba"],
    "kimi-linear": ["kimi_linear"],
    "lfm2": ["lfm2"],
    "lfm2moe": ["lfm2_moe"],
    "llama": ["llama"],
    "llama4": ["llama4_text"],
    "mimo2": ["mimo_v2_flash"],
    "minicpm3": ["minicpm3"],
    "minimax-m2": ["minimax_m2"],
    "mistral4": ["mistral4"],
    "nemotron": ["nemotron"],
    "nemotron_h_moe": ["nemotron_h"],
    "olmo": ["olmo"],
    "olmo2": ["olmo2"],
    "olmoe": ["olmoe"],
    "phi2": ["phi"],
    "phi3": ["phi3"],
    "phimoe": ["phimoe"],
    "qwen2": ["qwen2"],
    "qwen2moe": ["qwen2_moe"],
    "qwen3": ["qwen3"],
    "qwen35": ["qwen3_5_text"],
    "qwen35moe": ["qwen3_5_moe_text"],
    "qwen3moe": ["qwen3_moe"],
    "qwen3next": ["qwen3_next"],
    "seed_oss": ["seed_oss"],
    "smollm3": ["smollm3"],
    "stablelm": ["stablelm", "stablelm parallel"],
    "starcoder2": ["starcoder2"],
}


@pytest.mark.parametrize(
    ("architecture", "name"), [(kind, name) for kind, names in CONVERTED.items() for name in names]
)
def test_blocks_are_those_of_the_published_checkpoint(
    tmp_path: Path, architecture: str, name: str
) -> None:
    torch.manual_seed(0)
    model = CASES[name].model_class(tiny_config(CASES[name]))
    randomise(model)
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            parameter.data.uniform_(-1, 1)
    model.save_pretrained(tmp_path / "published")
    convert(tmp_path / "published", tmp_path / "model.gguf", architecture)
    published = ModelReader(open_checkpoint(str(tmp_path / "published")))
    from_gguf = ModelReader(open_checkpoint(str(tmp_path / "model.gguf")))
    assert from_gguf.attention_blocks == published.attention_blocks
    assert_equal(from_gguf.embeddings([3, 9]), published.embeddings([3, 9]), "embeddings")
    for index in published.attention_blocks:
        assert_equal(from_gguf.read_block(index), published.read_block(index), f"block {index}")


@pytest.mark.parametrize(
    ("architecture", "name"),
    [("granite", "granite"), ("granitemoe", "granitemoe"), ("llama", "llama"),
     ("qwen3", "qwen3"), ("nemotron", "nemotron"), ("arcee", "arcee"), ("jais2", "jais2")],
)  # fmt: skip
def test_a_short_pass_runs_as_from_the_published_checkpoint(
    tmp_path: Path, architecture: str, name: str
) -> None:
    """Factors, activations and rotary angles, which no tensor shows."""
    changes = {"attention_multiplier": 0.3, "embedding_multiplier": 5.0, "residual_multiplier": 0.4}
    case = CASES[name]
    own = changes if "granite" in architecture else {"rope_theta": 5e5}
    case = dataclasses.replace(case, changes={**case.changes, **own})
    case.model_class(tiny_config(case)).save_pretrained(tmp_path / "published")
    convert(tmp_path / "published", tmp_path / "model.gguf", architecture)
    folders = (tmp_path / "published", tmp_path / "model.gguf")
    readers = [ModelReader(open_checkpoint(str(folder))) for folder in folders]
    a, b = (running(reader.layout, reader.config, 48, learned=False) for reader in readers)
    assert a.activation is b.activation
    for key in ("epsilon", "embedding_scale", "residual_scale", "softcap", "parallel", "positions"):
        assert getattr(a, key) == pytest.approx(getattr(b, key)), key
    assert a.score_scale(1, 12) == pytest.approx(b.score_scale(1, 12))
    if "partial_rotary_factor" not in readers[0].config.get("rope_parameters", {}):
        assert_equal(b.rotation(1, 12, 5)[0], a.rotation(1, 12, 5)[0], "cosines")  # type: ignore[index]


YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64,
        "beta_fast": 32.0, "beta_slow": 1.0, "rope_theta": 1e4}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32,
          "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 1e4}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
LONG = {"rope_type": "longrope", "original_max_position_embeddings": 32, "rope_theta": 1e4,
        "short_factor": [1, 1.2, 1.5, 1.9, 2.5, 3], "long_factor": [2, 3, 4, 5, 6, 8]}  # fmt: skip
SCALED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "YaRN": ("llama", "llama", {"rope_parameters": YARN}),
    "Llama 3": ("llama", "llama", {"rope_parameters": LLAMA3}),
    "long": ("phi3", "phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 32}),
    "linear": ("qwen2", "qwen2", {"rope_parameters": LINEAR}),
    "of global blocks": (
        "gemma3", "gemma3_text",
        {"query_pre_attn_scalar": 12, "num_hidden_layers": 6,
         "rope_parameters": {"full_attention": LINEAR,
                             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    ),
    "a share of planes": ("gemma4", "gemma4_text", {}),
    "two scales": ("mistral4", "mistral4", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALED)
def test_rotary_angles_are_scaled_as_in_the_published_checkpoint(tmp_path: Path, name: str) -> None:
    architecture, kind, changes = SCALED[name]
    case = dataclasses.replace(CASES[kind], changes={**CASES[kind].changes, **changes})
    case.model_class(tiny_config(case)).save_pretrained(tmp_path / "published")
    convert(tmp_path / "published", tmp_path / "model.gguf", architecture)
    folders = (tmp_path / "published", tmp_path / "model.gguf")
    readers = [ModelReader(open_checkpoint(str(folder))) for folder in folders]
    a, b = (running(reader.layout, reader.config, 48, learned=False) for reader in readers)
    scaled = 0
    for index in readers[0].attention_blocks:
        size = 8 if name == "two scales" else 12
        if name == "a share of planes" and index % 2:
            size = int(readers[1].config["global_head_dim"])
        plain = dataclasses.replace(b, config={"rope_theta": 1e4, "model_type": "llama"})
        first, second = a.rotation(index, size, 9), b.rotation(index, size, 9)
        assert first is not None
        assert second is not None
        unscaled = plain.rotation(index, size, 9)
        assert unscaled is not None
        for ours, theirs in zip(second, first, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        scaled += first[0].shape != unscaled[0].shape or not torch.allclose(first[0], unscaled[0])
    assert scaled, "the angles differ from those without scaling"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "name"), [(kind, name) for kind, names in CONVERTED.items() for name in names]
)
def test_a_file_and_its_checkpoint_are_one_model(
    tmp_path: Path, architecture: str, name: str
) -> None:
    """All that a fingerprint rests on, settings of the forward pass among it, is the same."""
    changes: dict[str, Any] = {"vocab_size": 2048}
    if name == "gemma3n_text":
        changes["vocab_size_per_layer_input"] = 2048
    if name in ("gemma2", "gemma3_text"):  # whose GGUF files have no scale of their own
        changes["query_pre_attn_scalar"] = 12
    case = dataclasses.replace(CASES[name], changes={**CASES[name].changes, **changes})
    torch.manual_seed(0)
    model = case.model_class(tiny_config(case))
    randomise(model)
    model.save_pretrained(tmp_path / "published")
    convert(tmp_path / "published", tmp_path / "model.gguf", architecture)
    write_tokenizer(tmp_path / "published", some_words(2048))
    models = [str(tmp_path / "published"), str(tmp_path / "model.gguf")]
    pair = huref.compare(models, cache=False).pairs[0]
    assert pair.similarity.ics == pytest.approx(1.0, abs=1e-6)
    assert pair.evidence.verdict == "descends"


def assert_equal(a: Any, b: Any, place: str) -> None:
    """All tensors, numbers and experts of two parts of a model are equal."""
    assert type(a) is type(b), place
    if isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, msg=lambda text: f"{place}: {text}")
    elif isinstance(a, Mixture):
        assert a.count == b.count, place
        for expert in range(a.count):
            assert_equal(a.read(expert), b.read(expert), f"{place}, expert {expert}")
        assert_equal(a.shared, b.shared, f"{place}, shared expert")
    elif dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_equal(getattr(a, field.name), getattr(b, field.name), f"{place}.{field.name}")
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), place
        for key in a:
            assert_equal(a[key], b[key], f"{place}.{key}")
    elif isinstance(a, float):
        assert a == pytest.approx(b), place  # GGUF has settings in float32
    elif not callable(a):
        assert a == b, place
