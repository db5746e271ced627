"""Attacked and quantised copies of a parent, written without a training framework."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from huref.attacks import attack
from scripts.zoo.plan import Plan

GROUP = 32  # inputs that share a scale
BITS = 4
WORD = 32 // BITS  # integers in an int32


def write_attacked(plan: Plan, folder: Path) -> None:
    """Apply attacks to the parent, one after the other."""
    parent = plan.out / plan.spec["parents"][0]
    attack(parent, plan.spec["kinds"], folder, plan.spec["seed"])


def write_quantised(plan: Plan, folder: Path) -> None:
    """Write the parent with the matrices of its blocks in four bits."""
    FORMATS[plan.spec["format"]](plan.out / plan.spec["parents"][0], folder)


def _is_matrix_of_a_block(name: str, tensor: Tensor) -> bool:
    return ".layers." in name and tensor.dim() == 2


def _pack(integers: Tensor) -> Tensor:
    """Pack 4-bit integers (n, columns) as int32 (n / 8, columns), the first in the lowest bits."""
    parts = integers.to(torch.int64).reshape(-1, WORD, integers.shape[1])
    words = (parts << (BITS * torch.arange(WORD))[None, :, None]).sum(1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32).contiguous()


def _as_gptq(name: str, weight: Tensor) -> dict[str, Tensor]:
    """Round to 16 levels per group of 32 inputs, in GPTQ's layout, which stores zero - 1."""
    stem, top = name.removesuffix(".weight"), 2**BITS - 1
    groups = weight.float().T.reshape(-1, GROUP, len(weight))  # (groups, inputs, outputs)
    low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)
    scales = ((high - low) / top).clamp(min=1e-8).half().float()
    zeros = (-low / scales).round().clamp(1, top)
    integers = (groups / scales[:, None] + zeros[:, None]).round().clamp(0, top)
    return {
        f"{stem}.qweight": _pack(integers.flatten(0, 1)),
        f"{stem}.qzeros": _pack((zeros - 1).T).T.contiguous(),
        f"{stem}.scales": scales.half(),
        f"{stem}.g_idx": (torch.arange(weight.shape[1]) // GROUP).int(),
    }


def _as_nf4(name: str, weight: Tensor) -> dict[str, Tensor]:
    """NF4 as bitsandbytes packs it, 64 weights to a scale."""
    from bitsandbytes.functional import quantize_4bit  # not needed for the committed zoo

    packed, state = quantize_4bit(weight.float(), blocksize=64, quant_type="nf4")
    parts = {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}
    return {name: packed, **parts}


def _write_safetensors(
    parent: Path,
    folder: Path,
    quantise: Callable[[str, Tensor], dict[str, Tensor]],
    settings: dict[str, Any],
) -> None:
    folder.mkdir()
    for path in parent.glob("tokenizer*"):
        shutil.copy(path, folder)
    config = json.loads((parent / "config.json").read_text("utf-8"))
    text = json.dumps(config | {"quantization_config": settings}, indent=2)
    (folder / "config.json").write_text(text, "utf-8")
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(parent / "model.safetensors").items():
        tensors |= quantise(name, tensor) if _is_matrix_of_a_block(name, tensor) else {name: tensor}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def write_gptq(parent: Path, folder: Path) -> None:
    """Write in GPTQ's format, rounded to nearest."""
    settings = {"quant_method": "gptq", "bits": BITS, "group_size": GROUP, "desc_act": False}
    _write_safetensors(parent, folder, _as_gptq, {**settings, "checkpoint_format": "gptq"})


def write_nf4(parent: Path, folder: Path) -> None:
    """Write in the format of transformers for models quantised by bitsandbytes."""
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    _write_safetensors(parent, folder, _as_nf4, {**settings, "bnb_4bit_quant_type": "nf4"})


def write_q4_0(parent: Path, folder: Path) -> None:
    """Write a Llama as one GGUF file with quantised embeddings and interleaved rows of q and k."""
    folder.mkdir()
    config = json.loads((parent / "config.json").read_text("utf-8"))
    tokenizer = json.loads((parent / "tokenizer.json").read_text("utf-8"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    kind = gguf.GGMLQuantizationType.Q4_0
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    pieces = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([piece for piece, _ in pieces])
    writer.add_token_types([1] * len(pieces))
    for name, tensor in load_file(parent / "model.safetensors").items():
        stem = name.removesuffix(".weight")
        if stem.endswith(("q_proj", "k_proj")):  # each rotary plane: halves to neighbours
            halves = tensor.reshape(-1, 2, config["head_dim"] // 2, tensor.shape[1])
            tensor = halves.transpose(1, 2).reshape(tensor.shape)
        new = f"{names.get_name(stem)}.weight"
        values = tensor.float().numpy()
        if tensor.dim() == 2:
            writer.add_tensor(new, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(new, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


FORMATS: dict[str, Callable[[Path, Path], None]] = {
    "gptq": write_gptq,
    "nf4": write_nf4,
    "q4_0": write_q4_0,
}

COPIES: dict[str, Callable[[Plan, Path], None]] = {
    "attacked": write_attacked,
    "quantised": write_quantised,
}
