"""Adapters, compared with PEFT's own merge."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from huref.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError
from huref.loader.checkpoint import open_checkpoint
from tests.support.hub_server import LoopbackHub
from tests.support.small_models import some_words, write_tokenizer

MakeModel = Callable[..., Path]
TARGETS = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


def make_adapter(
    base: Path, target: Path, kind: str = "LlamaForCausalLM", **settings: Any
) -> dict[str, torch.Tensor]:
    """An adapter with random deltas, saved by PEFT; the merged weights by PEFT."""
    import peft
    import transformers

    model = getattr(transformers, kind).from_pretrained(base)
    arguments = {"r": 4, "lora_alpha": 12, "target_modules": TARGETS} | settings
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**arguments))
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn_like(parameter) * 0.2
            parameter.data += noise.abs() if "magnitude" in name else noise
    wrapped.save_pretrained(target)
    merged = wrapped.merge_and_unload().state_dict()
    return {name: tensor.detach().clone() for name, tensor in merged.items()}


CASES: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "DoRA and rsLoRA": {"use_dora": True, "use_rslora": True},
    "patterns": {"rank_pattern": {"layers.1.self_attn.q_proj": 2},
                 "alpha_pattern": {"up_proj": 3, "layers.1.self_attn.q_proj": 5}},
    "embedding": {"target_modules": [*TARGETS, "embed_tokens"]},
    "modules to save": {"modules_to_save": ["embed_tokens", "lm_head"]},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_adapters_merge_as_peft_does(make_llama: MakeModel, tmp_path: Path, case: str) -> None:
    base, adapter = make_llama("base"), tmp_path / "adapter"
    merged = make_adapter(base, adapter, **CASES[case])
    checkpoint, before = open_checkpoint(str(adapter)), open_checkpoint(str(base))
    assert set(checkpoint.names) == set(before.names)
    read = checkpoint.read(checkpoint.names)
    for name, tensor in read.items():
        torch.testing.assert_close(tensor, merged[name], rtol=1e-4, atol=1e-5)
        if tensor.dim() == 2:
            rows = [len(tensor) - 1, 0, 5]
            torch.testing.assert_close(checkpoint.read_rows(name, rows), tensor[rows])
    changed = "model.layers.1.self_attn.q_proj.weight"
    assert not torch.allclose(read[changed], before.read([changed])[changed], atol=1e-3)
    assert checkpoint.config == before.config
    assert checkpoint.vocabulary == before.vocabulary
    assert checkpoint.bytes_total > before.bytes_total


def test_transposed_matrices_of_gpt2(tmp_path: Path) -> None:
    import transformers

    config = transformers.GPT2Config(vocab_size=256, n_embd=32, n_layer=2, n_head=2)
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    for use_dora in (False, True):
        adapter = tmp_path / f"adapter-{use_dora}"
        settings = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
        merged = make_adapter(
            tmp_path / "base", adapter, "GPT2LMHeadModel", use_dora=use_dora, **settings
        )
        checkpoint = open_checkpoint(str(adapter))
        for name in ("transformer.h.1.attn.c_attn.weight", "transformer.h.0.mlp.c_fc.weight"):
            read = checkpoint.read([name])[name]
            torch.testing.assert_close(read, merged[name], rtol=1e-4, atol=1e-5)


def test_a_quantised_base_is_dequantised_first(make_llama: MakeModel, tmp_path: Path) -> None:
    import safetensors.torch

    base = make_llama("base")
    make_adapter(base, tmp_path / "adapter")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = safetensors.torch.load_file(base / "model.safetensors")
    before = open_checkpoint(str(tmp_path / "adapter")).read([name])[name] - tensors[name]
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    tensors[name.replace("weight", "weight_scale")] = torch.tensor(2.0)
    safetensors.torch.save_file(tensors, base / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (base / "config.json").write_text(json.dumps(config))
    after = open_checkpoint(str(tmp_path / "adapter")).read([name])[name]
    torch.testing.assert_close(after - 2 * tensors[name].float(), before, rtol=1e-4, atol=1e-5)


def edit(adapter: Path, **changes: object) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text()) | changes
    (adapter / "adapter_config.json").write_text(json.dumps(settings))


def test_the_base_is_found_on_the_hub_or_given(
    make_llama: MakeModel, tmp_path: Path, hub: LoopbackHub
) -> None:
    base, adapter = make_llama("base"), tmp_path / "adapter"
    merged = make_adapter(base, adapter)
    hub.add("org/base", base)
    hub.add("org/adapter", adapter)
    name = "model.layers.0.self_attn.o_proj.weight"
    edit(adapter, base_model_name_or_path="org/base")
    for model, given in (("org/adapter", ""), (str(adapter), ""), ("org/adapter", str(base))):
        checkpoint = open_checkpoint(model, base=given)
        torch.testing.assert_close(
            checkpoint.read([name])[name], merged[name], rtol=1e-4, atol=1e-5
        )
    edit(adapter, base_model_name_or_path="org/gone")
    with pytest.raises(
        ModelNotFoundError, match=r"adapter of org/gone\).*give its base with --base"
    ):
        _ = open_checkpoint(str(adapter)).config
    edit(adapter, base_model_name_or_path=None)
    with pytest.raises(
        CheckpointError,
        match=r"adapter_config\.json: the adapter names no base model; give one with --base",
    ):
        _ = open_checkpoint(str(adapter)).config
    with pytest.raises(CheckpointError, match="--base is for adapters"):
        open_checkpoint(str(base), base="org/base")


def test_an_adapter_from_the_hub_opens_no_path_of_this_machine(
    make_llama: MakeModel, tmp_path: Path, hub: LoopbackHub
) -> None:
    base, adapter = make_llama("base"), tmp_path / "adapter"
    make_adapter(base, adapter)
    hub.add("org/adapter", adapter)
    with pytest.raises(CheckpointError, match="a path on this machine, which is not opened"):
        _ = open_checkpoint("org/adapter").config
    assert open_checkpoint("org/adapter", base=str(base)).config["model_type"] == "llama"


def test_an_adapter_of_an_adapter_works_and_a_loop_is_refused(
    make_llama: MakeModel, tmp_path: Path
) -> None:
    base = make_llama("base")
    first, second = tmp_path / "first", tmp_path / "second"
    make_adapter(base, first)
    make_adapter(base, second)
    name = "model.layers.0.self_attn.q_proj.weight"
    original = open_checkpoint(str(base)).read([name])[name]
    once = open_checkpoint(str(first)).read([name])[name]
    other = open_checkpoint(str(second)).read([name])[name]
    edit(second, base_model_name_or_path=str(first))
    twice = open_checkpoint(str(second)).read([name])[name]
    torch.testing.assert_close(twice - once, other - original, rtol=1e-3, atol=1e-5)
    edit(first, base_model_name_or_path=str(second))
    with pytest.raises(CheckpointError, match=r"the adapters form a loop: .*first"):
        _ = open_checkpoint(str(second)).config
    edit(first, base_model_name_or_path=str(first))
    with pytest.raises(CheckpointError, match="the adapters form a loop"):
        _ = open_checkpoint(str(first)).config


def test_adapters_of_another_model_or_kind_are_refused(
    make_llama: MakeModel, tmp_path: Path
) -> None:
    base, other, adapter = make_llama("base"), make_llama("other", hidden_size=32), tmp_path / "a"
    make_adapter(base, adapter)
    checkpoint = open_checkpoint(str(adapter), base=str(other))
    with pytest.raises(CheckpointError, match=r"does not fit the base's.*--base"):
        checkpoint.read(checkpoint.names)
    shallow = make_llama("shallow", num_hidden_layers=1)
    with pytest.raises(CheckpointError, match=r"changes 'model\.layers\..*does not have"):
        _ = open_checkpoint(str(adapter), base=str(shallow)).names
    edit(adapter, peft_type="BOFT")
    with pytest.raises(UnsupportedModelError, match="type BOFT cannot be read, only LORA"):
        _ = open_checkpoint(str(adapter)).names
    edit(adapter, peft_type="IA3")
    with pytest.raises(CheckpointError, match="says peft_type IA3, but its weights are those of"):
        _ = open_checkpoint(str(adapter)).names


def test_a_torch_adapter_with_a_hostile_pickle_is_refused(tmp_path: Path) -> None:
    import os

    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path}/executed",)

    write_tokenizer(tmp_path, some_words(10))
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "none")})
    )
    torch.save({"a": Evil()}, tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin.*nothing was executed"):
        _ = open_checkpoint(str(tmp_path)).names
    assert not (tmp_path / "executed").exists()
