"""Adapters of every kind that people publish, against PEFT's merge of the same files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from huref.errors import CheckpointError, HurefError, UnsupportedModelError
from huref.loader.checkpoint import open_checkpoint
from tests.loader.test_adapters import MakeModel, edit, make_adapter

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Q = "model.layers.1.self_attn.q_proj"


def assert_merged(adapter: Path, merged: dict[str, Tensor], tolerance: float = 1e-4) -> None:
    """Every tensor of an opened adapter is PEFT's, whole and by rows."""
    checkpoint = open_checkpoint(str(adapter))
    read = checkpoint.read(checkpoint.names)
    for name, tensor in read.items():
        torch.testing.assert_close(tensor.float(), merged[name], rtol=tolerance, atol=tolerance)
        if tensor.dim() >= 2:
            rows = [len(tensor) - 1, 0, 2]
            torch.testing.assert_close(
                checkpoint.read_rows(name, rows).float(), tensor[rows].float(), msg=name
            )


def read_all(adapter: Path) -> dict[str, Tensor]:
    """Every tensor of an adapter merged into its base."""
    checkpoint = open_checkpoint(str(adapter))
    return checkpoint.read(checkpoint.names)


def rewrite(adapter: Path, change: Callable[[str], str]) -> None:
    """Rename the tensors of an adapter."""
    file = adapter / "adapter_model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(file).items()}, file)


KINDS: dict[str, dict[str, Any]] = {
    "alpha by a regular expression": {
        "alpha_pattern": {r".*\.layers\.[0-2]\..*(q_proj|up_proj)": 64, "v_proj": 2}},
    "rank and alpha by regular expressions": {
        "rank_pattern": {r"layers\.\d\.mlp\..*": 8}, "alpha_pattern": {r"^model.*down_proj": 40}},
    "the first pattern that fits": {"alpha_pattern": {r".*proj": 5, r".*q_proj": 500}},
    "a pattern of a part of a name": {"alpha_pattern": {"proj": 500, "layers.1": 500}},
    "rsLoRA with patterns": {"use_rslora": True, "alpha_pattern": {r".*\.1\..*": 7}},
    "PiSSA": {"target_modules": ALL, "init_lora_weights": "pissa", "r": 8},
    "PiSSA and rsLoRA": {"init_lora_weights": "pissa", "use_rslora": True},
    "OLoRA": {"target_modules": ALL, "init_lora_weights": "olora", "r": 8},
    "OLoRA with a scale": {"init_lora_weights": "olora", "lora_alpha": 3},
    "an orthogonal start": {"init_lora_weights": "orthogonal"},
    "biases": {"bias": "all"},
    "DoRA of an embedding": {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
    "trained tokens": {"trainable_token_indices": {"embed_tokens": [3, 1500, 7]}},
    "trained tokens as a list": {"trainable_token_indices": [5, 1999]},
    "only some layers": {"layers_to_transform": [1, 3], "layers_pattern": "layers"},
    "all but some": {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    "modules by a regular expression": {"target_modules": r".*\.[02]\..*(q|up)_proj"},
    "DoRA with patterns": {
        "use_dora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
    "tokens of two matrices": {
        "trainable_token_indices": {"embed_tokens": [3], "lm_head": [4, 5]}},
    "a whole module": {"modules_to_save": ["mlp", "input_layernorm"]},
    "a parameter of a linear layer": {
        "target_modules": [], "target_parameters": ["q_proj.weight"]},
    "EVA": {"init_lora_weights": "eva"},
    "a negative scale": {"lora_alpha": -3},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_settings_mean_what_they_mean_to_peft(
    make_llama: MakeModel, tmp_path: Path, kind: str
) -> None:
    base, adapter = make_llama("base"), tmp_path / "adapter"
    merged = make_adapter(base, adapter, **KINDS[kind])
    assert_merged(adapter, merged, 2e-3 if "PiSSA" in kind else 1e-4)


def test_a_vocabulary_that_grew(make_llama: MakeModel, tmp_path: Path) -> None:
    """PEFT saves the grown matrices under several names; the base has fewer rows."""
    import peft
    import transformers

    base, adapter = make_llama("base"), tmp_path / "adapter"
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(2056)
    saved = ["embed_tokens", "lm_head"]
    settings = peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=saved)
    wrapped = peft.get_peft_model(model, settings)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    wrapped.save_pretrained(adapter)
    assert_merged(adapter, wrapped.merge_and_unload().state_dict())
    assert len(read_all(adapter)["model.embed_tokens.weight"]) == 2056


def test_pissa_by_iterations_and_biases_of_factors(make_llama: MakeModel, tmp_path: Path) -> None:
    """PEFT's iterations find the same part of weights whose singular values fall."""
    base = make_llama("base", attention_bias=True)
    tensors = load_file(base / "model.safetensors")
    torch.manual_seed(5)
    for name, tensor in tensors.items():
        if name.endswith("_proj.weight"):
            u, _, vh = torch.linalg.svd(torch.randn_like(tensor), full_matrices=False)
            tensors[name] = (u * 0.7 ** torch.arange(u.shape[1])) @ vh
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    start: dict[str, Any] = {"init_lora_weights": "pissa_niter_16", "r": 8}
    merged = make_adapter(base, tmp_path / "pissa", target_modules=ALL, **start)
    assert_merged(tmp_path / "pissa", merged, 2e-3)
    merged = make_adapter(base, tmp_path / "bias", target_modules=["q_proj"], lora_bias=True)
    read = open_checkpoint(str(tmp_path / "bias")).read([f"{Q}.weight"])[f"{Q}.weight"]
    torch.testing.assert_close(read, merged[f"{Q}.weight"], rtol=1e-4, atol=1e-4)


NAMES: dict[str, Callable[[str], str]] = {
    "the adapter's name": lambda n: n.replace(".lora_A.", ".lora_A.default.").replace(
        ".lora_B.", ".lora_B.default."
    ),
    "another adapter's name": lambda n: n.replace("_A.weight", "_A.style.weight").replace(
        "_B.weight", "_B.style.weight"
    ),
    "no root": lambda n: n.removeprefix("base_model.model."),
    "the root twice": lambda n: f"base_model.model.{n}",
    "torch.compile's word": lambda n: n.replace("model.model.", "model._orig_mod.model."),
    "the prefix of a wrapper": lambda n: n.replace("model.model.", "model.model.language_model."),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_are_matched_whatever_stands_before_them(
    make_llama: MakeModel, tmp_path: Path, kind: str
) -> None:
    base, adapter = make_llama("base"), tmp_path / "adapter"
    merged = make_adapter(base, adapter)
    rewrite(adapter, NAMES[kind])
    assert_merged(adapter, merged)


def test_nothing_is_dropped_in_silence(make_llama: MakeModel, tmp_path: Path) -> None:
    base, adapter = make_llama("base"), tmp_path / "adapter"
    merged = make_adapter(base, adapter)
    file = adapter / "adapter_model.safetensors"
    original = load_file(file)
    head = {
        "v_head.summary.weight": torch.ones(1, 64),
        "base_model.model.score.weight": torch.ones(2, 64),
        "base_model.model.model.vision_tower.encoder.layers.1.self_attn.q_proj.lora_A.weight":
            torch.ones(4, 64),
        "base_model.model.model.vision_tower.encoder.layers.1.self_attn.q_proj.lora_B.weight":
            torch.ones(64, 4),
    }  # fmt: skip
    save_file(original | head, file)
    assert_merged(adapter, merged)
    described = open_checkpoint(str(adapter)).describe_files()
    assert described["unused"] == sorted(head)
    assert described["format"] == "PEFT LoRA adapter"
    assert described["base"]["model"] == str(base)
    assert described["base"]["names"] == ["model.safetensors"]
    for name in (
        "base_model.model.model.layers.1.self_attn.q_projection",
        "base_model.model.model.layers.9.self_attn.q_proj",
        "base_model.model.model.layers.1.adapter.q_proj",
    ):
        pair = {
            f"{name}.lora_A.weight": torch.ones(4, 64),
            f"{name}.lora_B.weight": torch.ones(64, 4),
        }
        save_file(original | pair, file)
        with pytest.raises(CheckpointError, match="which its base does not have"):
            _ = open_checkpoint(str(adapter)).names
    save_file(original | {"base_model.model.model.layers.1.extra.weight": torch.ones(4)}, file)
    with pytest.raises(CheckpointError, match=r"replaces 'model\.layers\.1\.extra\.weight'"):
        _ = open_checkpoint(str(adapter)).names


def test_a_value_head_in_a_file_of_its_own(make_llama: MakeModel, tmp_path: Path) -> None:
    base, adapter = make_llama("base"), tmp_path / "adapter"
    merged = make_adapter(base, adapter)
    head = {"v_head.summary.weight": torch.ones(1, 64), "v_head.summary.bias": torch.ones(1)}
    torch.save(head, adapter / "pytorch_model.bin")
    (adapter / "model_card.md").write_text("# Notes\n")
    shutil.copy(base / "config.json", adapter / "config.json")
    assert_merged(adapter, merged)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "OFT": ({"peft_type": "OFT"}, "type OFT.*merge it with PEFT"),
    "LoHa": ({"peft_type": "LOHA"}, "says peft_type LOHA, but its weights are those of LORA"),
    "prompt tuning": ({"peft_type": "PROMPT_TUNING"}, "type PROMPT_TUNING.*give its base"),
    "a mixture of adapters": ({"peft_type": "XLORA"}, "type XLORA.*give its base"),
    "another rank": ({"r": 8}, "states rank 8 for 'model.layers.0.*have rank 4; the settings and"),
    "another rank by a pattern": ({"rank_pattern": {"q_proj": 2}}, "states rank 2 for"),
    "no magnitudes": ({"use_dora": True}, "use_dora = True, but its weights lack"),
    "CorDA": ({"init_lora_weights": "corda"}, "'corda'.*merge it with PEFT"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "'loftq'.*merge it with PEFT"),
    "LoRA-GA": ({"init_lora_weights": "lora_ga"}, "'lora_ga'.*merge it with PEFT"),
    "an unknown start": ({"init_lora_weights": "newest"}, "'newest' is not known"),
    "activated LoRA": ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
    "repeated layers": ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
    "no regular expression": ({"alpha_pattern": {"(": 3}}, "no regular expression of modules"),
    "a pattern with more than names need": (
        {"alpha_pattern": {"(?=a)b": 3}}, "a group of a kind that names do not need"),
    "patterns that are none": ({"rank_pattern": None, "alpha_pattern": [1]}, "not a mapping"),
    "no number": ({"lora_alpha": "many"}, "lora_alpha is 'many'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def a_lora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base and a LoRA adapter of it."""
    import transformers

    folder = tmp_path_factory.mktemp("lora")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "base")
    make_adapter(folder / "base", folder / "adapter", target_modules=["q_proj"])
    return folder / "base", folder / "adapter"


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_merged_is_refused_by_name(
    a_lora: tuple[Path, Path], tmp_path: Path, kind: str
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(a_lora[1], adapter)
    changes, message = REFUSED[kind]
    edit(adapter, **changes)
    with pytest.raises(HurefError, match=message) as caught:
        read_all(adapter)
    assert "again" not in str(caught.value)


def test_several_adapters_in_a_file_are_refused(a_lora: tuple[Path, Path], tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(a_lora[1], adapter)
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    both = {
        n.replace(".weight", f".{a}.weight"): t.clone() for n, t in tensors.items() for a in "xy"
    }
    save_file(both, file)
    with pytest.raises(CheckpointError, match=r"several adapters \(x, y\)"):
        _ = open_checkpoint(str(adapter)).names


def write_mlx(base: Path, folder: Path, tensors: dict[str, Tensor], **settings: Any) -> None:
    folder.mkdir()
    save_file(tensors, folder / "adapters.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"model": str(base)} | settings))


def test_adapters_of_mlx(make_llama: MakeModel, tmp_path: Path) -> None:
    base = make_llama("base")
    weights = load_file(base / "model.safetensors")
    torch.manual_seed(3)
    a, b = torch.randn(64, 4), torch.randn(4, 64)
    change = (a @ b).T
    w = weights[f"{Q}.weight"]
    pair = {f"{Q}.lora_a": a, f"{Q}.lora_b": b}
    write_mlx(
        base, tmp_path / "lora", pair, fine_tune_type="lora",
        lora_parameters={"rank": 4, "scale": 3.0},
    )  # fmt: skip
    assert_merged(tmp_path / "lora", weights | {f"{Q}.weight": w + 3 * change})
    write_mlx(
        base, tmp_path / "old", pair, lora_layers=2,
        lora_parameters={"rank": 4, "alpha": 8.0, "scale": 3.0},
    )  # fmt: skip
    assert_merged(tmp_path / "old", weights | {f"{Q}.weight": w + 6 * change})
    m = torch.rand(64) + 0.5
    write_mlx(
        base, tmp_path / "dora", pair | {f"{Q}.m": m}, fine_tune_type="dora",
        lora_parameters={"rank": 4, "scale": 1.0},
    )  # fmt: skip
    moved = w + change
    expected = moved * (m / moved.norm(dim=1))[:, None]
    assert_merged(tmp_path / "dora", weights | {f"{Q}.weight": expected})
    write_mlx(base, tmp_path / "full", {f"{Q}.weight": moved}, fine_tune_type="full")
    assert_merged(tmp_path / "full", weights | {f"{Q}.weight": moved})
    vlm = {f"{Q}.A": a, f"{Q}.B": b}
    write_mlx(base, tmp_path / "vlm", vlm, rank=4, alpha=2.0)
    with pytest.raises(
        CheckpointError, match=r"alpha \(2\), .*alpha / rank \(0\.5\).*\"scale\": 0\.5"
    ):
        read_all(tmp_path / "vlm")
    edit(tmp_path / "vlm", lora_parameters={"scale": 2.0})
    assert_merged(tmp_path / "vlm", weights | {f"{Q}.weight": w + 2 * change})
    one = {f"{Q}.A": a[:, :1].contiguous(), f"{Q}.B": b[:1].contiguous()}
    write_mlx(base, tmp_path / "vlm of rank 1", one, rank=1, alpha=2.0)
    product = (a[:, :1] @ b[:1]).T
    assert_merged(tmp_path / "vlm of rank 1", weights | {f"{Q}.weight": w + 2 * product})
    write_mlx(base, tmp_path / "odd", pair, fine_tune_type="lokr")
    with pytest.raises(UnsupportedModelError, match=r"'lokr'.*mlx_lm\.fuse"):
        _ = open_checkpoint(str(tmp_path / "odd")).names


MIXTURES = {
    "GptOss": {"head_dim": 16, "num_local_experts": 4},
    "Qwen3Moe": {"head_dim": 16, "num_experts": 4, "moe_intermediate_size": 24},
    "Mixtral": {"num_local_experts": 4, "head_dim": 16},
}  # fmt: skip


@pytest.mark.parametrize("kind", MIXTURES)
def test_target_parameters_of_a_mixture(tmp_path: Path, kind: str) -> None:
    """PEFT adapts the stacks that transformers has in memory, however the base is saved."""
    import transformers

    settings = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "num_experts_per_tok": 2,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**settings, **MIXTURES[kind])
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).float()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.1
    model.save_pretrained(base)
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    make_adapter(
        base, adapter, f"{kind}ForCausalLM",
        target_modules=["q_proj"], target_parameters=parameters,
    )  # fmt: skip
    import peft

    merged = peft.PeftModel.from_pretrained(
        getattr(transformers, f"{kind}ForCausalLM").from_pretrained(base), adapter
    ).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    expected = load_file(tmp_path / "merged" / "model.safetensors")
    assert_merged(adapter, {name: tensor.float() for name, tensor in expected.items()}, 1e-3)
    before = load_file(base / "model.safetensors")
    experts = [name for name in expected if ".experts." in name and "bias" not in name]
    assert experts
    for name in experts:
        assert not torch.allclose(before[name].float(), expected[name].float(), atol=1e-3)


def test_each_tower_gets_its_own_deltas(tmp_path: Path) -> None:
    import transformers

    text = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**text),
        vision_config=transformers.CLIPVisionConfig(**vision),
        image_token_index=5,
    )
    torch.manual_seed(0)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "base")
    merged = make_adapter(
        tmp_path / "base", tmp_path / "adapter", "LlavaForConditionalGeneration",
        target_modules=["q_proj", "v_proj"],
    )  # fmt: skip
    inner = {
        name.removeprefix("model.language_model."): tensor
        for name, tensor in merged.items()
        if name.startswith("model.language_model.")
    }
    checkpoint = open_checkpoint(str(tmp_path / "adapter"))
    for name in checkpoint.names:
        if not name.startswith("lm_head"):
            published = inner[name.removeprefix("model.")]
            torch.testing.assert_close(checkpoint.read([name])[name], published)
    unused = checkpoint.describe_files()["unused"]
    assert len(unused) == 8
    assert all("vision" in name for name in unused)


def test_tokens_that_do_not_fit_are_refused(a_lora: tuple[Path, Path], tmp_path: Path) -> None:
    for name, ids, message in (
        ("outside", [2, 64], "trains token 64"),
        ("too few", [2], "for 1 tokens"),
        ("none", None, "do not name the rows"),
    ):
        adapter = tmp_path / name
        shutil.copytree(a_lora[1], adapter)
        file = adapter / "adapter_model.safetensors"
        rows = {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta":
                torch.ones(2, 16)}  # fmt: skip
        save_file(load_file(file) | rows, file)
        edit(adapter, trainable_token_indices=ids and {"embed_tokens": ids})
        with pytest.raises(CheckpointError, match=message):
            read_all(adapter)
