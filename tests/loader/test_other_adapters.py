"""Adapters of other kinds than LoRA, against PEFT's merge of the same files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from huref.errors import HurefError
from huref.loader.checkpoint import open_checkpoint
from tests.loader.test_adapter_kinds import assert_merged, read_all
from tests.loader.test_adapters import edit

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "AdaLoRA": ("AdaLora", {"init_r": 4, "target_r": 2, "lora_alpha": 9, "total_step": 9}),
    "AdaLoRA without alpha": ("AdaLora", {"init_r": 4, "lora_alpha": 0, "total_step": 9}),
    "LoHa": ("LoHa", {"r": 4, "alpha": 12}),
    "LoHa with patterns": (
        "LoHa",
        {"r": 4, "alpha": 12, "rank_pattern": {r".*layers\.1.*q_proj": 2},
         "alpha_pattern": {"up_proj": 3}},
    ),
    "LoKr": ("LoKr", {"r": 4, "alpha": 12}),
    "LoKr of low rank": ("LoKr", {"r": 1, "alpha": 3, "decompose_both": True}),
    "LoKr of another division": ("LoKr", {"r": 2, "alpha": 3, "decompose_factor": 4}),
    "VeRA": ("Vera", {"r": 8}),
    "IA3": ("IA3", {"feedforward_modules": ["down_proj", "up_proj"]}),
}  # fmt: skip


def make(
    base: Path,
    target: Path,
    kind: str,
    settings: dict[str, Any],
    model_kind: str = "LlamaForCausalLM",
) -> dict[str, Tensor]:
    """An adapter with random numbers, saved by PEFT; what PEFT merges from its files."""
    import peft
    import transformers

    torch.manual_seed(1)
    loaded = getattr(transformers, model_kind).from_pretrained(base)
    arguments = {"target_modules": ALL} | settings
    wrapped = peft.get_peft_model(loaded, getattr(peft, f"{kind}Config")(**arguments))
    for name, parameter in wrapped.named_parameters():
        if "ranknum" not in name and parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    wrapped.save_pretrained(target)
    fresh = getattr(transformers, model_kind).from_pretrained(base)
    merged = peft.PeftModel.from_pretrained(fresh, target).merge_and_unload().state_dict()
    return {name: tensor.detach().clone() for name, tensor in merged.items()}


@pytest.mark.parametrize("name", KINDS)
def test_merged_as_peft_does(make_llama: Callable[..., Path], tmp_path: Path, name: str) -> None:
    base, adapter = make_llama("base"), tmp_path / "adapter"
    merged = make(base, adapter, *KINDS[name])
    assert_merged(adapter, merged)
    before = load_file(base / "model.safetensors")
    changed = "model.layers.1.self_attn.q_proj.weight"
    assert not torch.allclose(before[changed], merged[changed], atol=1e-2)
    kind = KINDS[name][0].upper()
    assert open_checkpoint(str(adapter)).describe_files()["format"] == f"PEFT {kind} adapter"


def test_adalora_with_ranks_taken_out(make_llama: Callable[..., Path], tmp_path: Path) -> None:
    """After training, ranks whose importance is small are no longer in the file."""
    import peft
    import transformers

    base, adapter = make_llama("base"), tmp_path / "adapter"
    model = transformers.LlamaForCausalLM.from_pretrained(base)
    settings = peft.AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=8, target_modules=ALL, total_step=4, tinit=0, tfinal=1
    )
    wrapped = peft.get_peft_model(model, settings)
    tokens = torch.arange(2, 34)[None]
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=5.0)
    for step in range(1, 5):
        optimizer.zero_grad()
        wrapped(tokens, labels=tokens).loss.backward()
        optimizer.step()
        wrapped.base_model.update_and_allocate(step)
    wrapped.save_pretrained(adapter)
    assert json.loads((adapter / "adapter_config.json").read_text())["rank_pattern"]
    fresh = transformers.LlamaForCausalLM.from_pretrained(base)
    merged = peft.PeftModel.from_pretrained(fresh, adapter).merge_and_unload().state_dict()
    assert_merged(adapter, merged)
    ranks = {t.shape[0] for n, t in load_file(adapter / "adapter_model.safetensors").items()
             if n.endswith("lora_A")}  # fmt: skip
    assert len(ranks) > 1, "some lost more than others"


def test_biases_of_ia3_and_its_transposed_form(
    make_llama: Callable[..., Path], tmp_path: Path
) -> None:
    import transformers

    base = make_llama("base", attention_bias=True)
    tensors = load_file(base / "model.safetensors")
    for name in [name for name in tensors if name.endswith("bias")]:
        tensors[name] = torch.randn_like(tensors[name])
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    settings = {"feedforward_modules": ["down_proj"], "target_modules": ["k_proj", "down_proj"]}
    assert_merged(tmp_path / "a", make(base, tmp_path / "a", "IA3", settings))
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    for kind, own in (
        ("IA3", {"feedforward_modules": ["c_proj"], "target_modules": ["c_attn", "c_proj"]}),
        ("AdaLora", {"init_r": 2, "target_modules": ["c_attn"], "total_step": 9}),
        ("Vera", {"r": 4, "target_modules": ["c_attn"]}),
    ):
        adapter = tmp_path / kind
        own = {**own, "fan_in_fan_out": True}
        merged = make(tmp_path / "gpt2", adapter, kind, own, "GPT2LMHeadModel")
        assert_merged(adapter, merged)


def test_norms_that_were_trained(make_llama: Callable[..., Path], tmp_path: Path) -> None:
    import peft
    import transformers

    base, adapter = make_llama("base"), tmp_path / "adapter"
    model = transformers.LlamaForCausalLM.from_pretrained(base)
    settings = peft.LNTuningConfig(target_modules=["input_layernorm", "norm"])
    wrapped = peft.get_peft_model(model, settings)
    for name, parameter in wrapped.named_parameters():
        if "ln_tuning" in name:
            parameter.data += torch.rand_like(parameter)
    wrapped.save_pretrained(adapter)
    assert_merged(adapter, wrapped.merge_and_unload().state_dict())


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and one adapter of each kind."""
    import transformers

    folder = tmp_path_factory.mktemp("others")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "base")
    for kind in ("LoHa", "LoKr", "Vera", "IA3"):
        own: dict[str, Any] = {"feedforward_modules": []} if kind == "IA3" else {"r": 2}
        own |= {"target_modules": ["q_proj"]}
        make(folder / "base", folder / kind, kind, own)
    return folder


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
DAMAGED: dict[str, tuple[str, Change, dict[str, Any], str]] = {
    "another kind in the settings": ("LoHa", dict, {"peft_type": "LORA"}, "says peft_type LORA"),
    "another rank": ("LoHa", dict, {"r": 5}, "states rank 5"),
    "no rank": ("LoKr", dict, {"r": 0}, "the rank is 0"),
    "no alpha": ("LoHa", dict, {"alpha": "x"}, "alpha is 'x'"),
    "one factor": (
        "LoHa",
        lambda t: {n: x for n, x in t.items() if "w2_b" not in n},
        {},
        "lacks hada_w2_b",
    ),
    "no projections": (
        "Vera",
        lambda t: {n: x for n, x in t.items() if "vera_A" not in n},
        {},
        "lacks VeRA's random matrices.*merge it with PEFT",
    ),
    "other sizes": (
        "IA3",
        lambda t: {n: torch.ones(7, 1) for n in t},
        {},
        "does not fit the base's shape",
    ),
    "a huge product": (
        "LoKr",
        lambda t: {n: torch.ones(9000, 9000 if "w1" in n else 1) for n in t},
        {},
        "does not fit the base's shape",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_contradicts_itself_is_refused(adapters: Path, tmp_path: Path, name: str) -> None:
    kind, change, settings, message = DAMAGED[name]
    adapter = tmp_path / "adapter"
    shutil.copytree(adapters / kind, adapter)
    file = adapter / "adapter_model.safetensors"
    save_file({n: x.contiguous() for n, x in change(load_file(file)).items()}, file)
    edit(adapter, **settings)
    with pytest.raises(HurefError, match=message) as caught:
        read_all(adapter)
    assert "download" not in str(caught.value)
