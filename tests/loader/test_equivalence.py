"""A trained model gives the same terms from every container and number format."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from huref.invariants.extract import extract_terms
from huref.invariants.terms import pearson
from huref.loader.checkpoint import open_checkpoint
from huref.recipe import Recipe
from tests.support.containers import config_of, copy_side_files, load, write_gguf, write_meta
from tests.support.zoo import ZOO

GROUP = 16  # inputs that share a scale; the zoo's models have hidden size 112
RECIPE = Recipe("test", "latin", 256, (1, 2), "whitened-1", 0.1, "", "")


@pytest.fixture(scope="module")
def source() -> Path:
    return ZOO / "llama-a"


@pytest.fixture(scope="module")
def original(source: Path) -> Tensor:
    return extract_terms(open_checkpoint(str(source)), RECIPE).terms


def is_linear(name: str) -> bool:
    return name.endswith("_proj.weight")


def with_settings(
    folder: Path, target: Path, tensors: dict[str, Tensor], **settings: object
) -> Path:
    copy_side_files(folder, target)
    config = config_of(folder) | ({"quantization_config": settings} if settings else {})
    (target / "config.json").write_text(json.dumps(config))
    contiguous = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    safetensors.torch.save_file(contiguous, target / "model.safetensors")
    return target


def as_torch(is_zip: bool) -> Callable[[Path, Path], Path]:
    def write(folder: Path, target: Path) -> Path:
        copy_side_files(folder, target)
        path = target / "pytorch_model.bin"
        torch.save(load(folder), path, _use_new_zipfile_serialization=is_zip)
        return target

    return write


def sharded(folder: Path, target: Path) -> Path:
    copy_side_files(folder, target)
    weight_map = {}
    for number, name in enumerate(load(folder)):
        weight_map[name] = f"model-{number % 3}.safetensors"
    for file in set(weight_map.values()):
        shard = {n: t for n, t in load(folder).items() if weight_map[n] == file}
        safetensors.torch.save_file(shard, target / file)
    index = {"weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return target


def as_meta(parts: int) -> Callable[[Path, Path], Path]:
    def write(folder: Path, target: Path) -> Path:
        write_meta(folder, target, parts)
        copy_side_files(folder, target, "tokenizer.json")
        return target

    return write


def padded(folder: Path, target: Path, width: int = 128) -> Path:
    """Pad the residual stream with zeros to a multiple of 32; the terms stay the same."""
    more = width - config_of(folder)["hidden_size"]
    tensors = {}
    for name, tensor in load(folder).items():
        pad: tuple[int, ...]
        if name.endswith("norm.weight"):
            pad, value = (0, more), 1.0
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            pad, value = (0, 0, 0, more), 0.0
        else:
            pad, value = (0, more), 0.0
        tensors[name] = torch.nn.functional.pad(tensor, pad, value=value)
    with_settings(folder, target, tensors)
    config = config_of(folder) | {"hidden_size": width}
    (target / "config.json").write_text(json.dumps(config))
    return target


def as_gguf(kind: str, split: int = 0, embedding: str = "") -> Callable[[Path, Path], Path]:
    def write(folder: Path, target: Path) -> Path:
        if kind.startswith("Q"):
            folder = padded(folder, target / "padded")
        write_gguf(folder, target / "m.gguf", "llama", kind, split, embedding)
        return next(iter(sorted(target.glob("*.gguf"))))

    return write


def as_dtype(dtype: torch.dtype) -> Callable[[Path, Path], Path]:
    def write(folder: Path, target: Path) -> Path:
        return with_settings(folder, target, {n: t.to(dtype) for n, t in load(folder).items()})

    return write


def as_fp8(block: int | None, dtype: torch.dtype) -> Callable[[Path, Path], Path]:
    def write(folder: Path, target: Path) -> Path:
        largest = torch.finfo(dtype).max
        tensors: dict[str, Tensor] = {}
        for name, tensor in load(folder).items():
            if not is_linear(name):
                tensors[name] = tensor
                continue
            scale = tensor.float().abs().amax(dim=1, keepdim=True) / largest
            if block:
                rows, columns = (-(-size // block) for size in tensor.shape)
                scale = torch.zeros(rows, columns)
                for i in range(rows):
                    for j in range(columns):
                        cut = tensor[i * block : (i + 1) * block, j * block : (j + 1) * block]
                        scale[i, j] = cut.float().abs().max() / largest
            spread = scale if not block else scale.repeat_interleave(block, 0).repeat_interleave(
                block, 1
            )[: tensor.shape[0], : tensor.shape[1]]  # fmt: skip
            tensors[name] = (tensor.float() / spread).to(dtype)
            tensors[name.replace("weight", "weight_scale_inv")] = scale
        return with_settings(
            folder, target, tensors, quant_method="fp8", weight_block_size=[block or 128] * 2
        )

    return write


def rounded(tensor: Tensor, size: int, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise by rounding to nearest in groups of inputs: integers (in, out), zeros, scales."""
    grouped = tensor.float().T.reshape(-1, size, tensor.shape[0])  # (groups, size, out)
    low, high = grouped.amin(dim=1), grouped.amax(dim=1)
    scale = ((high - low) / (2**bits - 1)).clamp(min=1e-8).half()
    zero = (-low / scale.float()).round().clamp(1, 2**bits - 1)
    integers = (grouped / scale.float()[:, None] + zero[:, None]).round().clamp(0, 2**bits - 1)
    return integers.flatten(0, 1).long(), zero.long(), scale


def words(integers: Tensor) -> Tensor:
    """Pack 4-bit integers (n, columns) into (n / 8, columns) int32."""
    packed = torch.stack([integers[i::8] << (4 * i) for i in range(8)]).sum(0)
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


def as_gptq(folder: Path, target: Path) -> Path:
    tensors: dict[str, Tensor] = {}
    for name, tensor in load(folder).items():
        if not is_linear(name):
            tensors[name] = tensor
            continue
        stem, size = name.removesuffix(".weight"), GROUP
        integers, zeros, scales = rounded(tensor, size, 4)
        tensors |= {
            f"{stem}.qweight": words(integers),
            f"{stem}.qzeros": words(zeros.T - 1).T,
            f"{stem}.scales": scales,
            f"{stem}.g_idx": (torch.arange(tensor.shape[1]) // size).int(),
        }
    return with_settings(folder, target, tensors, quant_method="gptq", bits=4, group_size=GROUP)


def as_awq(folder: Path, target: Path) -> Path:
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def interleaved(integers: Tensor) -> Tensor:
        return words(integers.T.reshape(-1, 8, len(integers))[:, order].flatten(0, 1)).T

    tensors: dict[str, Tensor] = {}
    for name, tensor in load(folder).items():
        if not is_linear(name):
            tensors[name] = tensor
            continue
        stem = name.removesuffix(".weight")
        integers, zeros, scales = rounded(tensor, GROUP, 4)
        tensors |= {
            f"{stem}.qweight": interleaved(integers),
            f"{stem}.qzeros": interleaved(zeros),
            f"{stem}.scales": scales,
        }
    return with_settings(folder, target, tensors, quant_method="awq", bits=4, version="gemm")


def as_bitsandbytes(kind: str, nested: bool = False) -> Callable[[Path, Path], Path]:
    def write(folder: Path, target: Path) -> Path:
        functional = pytest.importorskip("bitsandbytes.functional")
        tensors: dict[str, Tensor] = {}
        for name, tensor in load(folder).items():
            if not is_linear(name):
                tensors[name] = tensor
            elif kind == "int8":
                codes, scales, _ = functional.int8_vectorwise_quant(tensor.half())
                tensors |= {name: codes, name.replace("weight", "SCB"): scales}
            else:
                packed, state = functional.quantize_4bit(
                    tensor.float(), blocksize=64, compress_statistics=nested, quant_type=kind
                )
                parts = state.as_dict(packed=True)
                tensors |= {name: packed, **{f"{name}.{k}": v for k, v in parts.items()}}
        return with_settings(folder, target, tensors, quant_method="bitsandbytes")

    return write


def as_packed(folder: Path, target: Path) -> Path:
    tensors: dict[str, Tensor] = {}
    for name, tensor in load(folder).items():
        if not is_linear(name):
            tensors[name] = tensor
            continue
        stem = name.removesuffix(".weight")
        grouped = tensor.float().reshape(tensor.shape[0], -1, GROUP)
        scale = (grouped.abs().amax(dim=2, keepdim=True) / 7).clamp(min=1e-8)
        integers = (grouped / scale).round().clamp(-8, 7).flatten(1).long() + 8
        tensors |= {
            f"{stem}.weight_packed": words(integers.T).T,
            f"{stem}.weight_scale": scale[..., 0],
            f"{stem}.weight_shape": torch.tensor(tensor.shape),
        }
    group = {"weights": {"num_bits": 4, "group_size": GROUP}}
    return with_settings(
        folder, target, tensors, quant_method="compressed-tensors", format="pack-quantized",
        config_groups={"group_0": group},
    )  # fmt: skip


def as_wrapper(folder: Path, target: Path) -> Path:
    tensors = {f"language_model.{name}": tensor for name, tensor in load(folder).items()}
    tensors["vision_tower.weight"] = torch.ones(3)
    with_settings(folder, target, tensors)
    config = {"model_type": "llava", "text_config": config_of(folder), "vision_config": {}}
    (target / "config.json").write_text(json.dumps(config))
    return target


def as_adapter_of_zeros(folder: Path, target: Path) -> Path:
    target.mkdir()
    stem = "base_model.model.model.layers.1.self_attn.q_proj"
    width = config_of(folder)["hidden_size"]
    parts = {f"{stem}.lora_A.weight": torch.randn(2, width), f"{stem}.lora_B.weight": torch.zeros(
        load(folder)["model.layers.1.self_attn.q_proj.weight"].shape[0], 2)}  # fmt: skip
    safetensors.torch.save_file(parts, target / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "lora_alpha": 4, "base_model_name_or_path": str(folder)}
    (target / "adapter_config.json").write_text(json.dumps(settings))
    return target


@dataclass(frozen=True)
class Form:
    write: Callable[[Path, Path], Path]
    least: float  # ICS


LOSSLESS, HALF, EIGHT_BIT, FOUR_BIT = 1 - 1e-6, 0.99995, 0.999, 0.98
FORMS = {
    "safetensors, sharded": Form(sharded, LOSSLESS),
    "torch zip": Form(as_torch(True), LOSSLESS),
    "torch legacy": Form(as_torch(False), LOSSLESS),
    "Meta, one part": Form(as_meta(1), LOSSLESS),
    "Meta, two parts": Form(as_meta(2), LOSSLESS),
    "GGUF F32": Form(as_gguf("F32"), LOSSLESS),
    "GGUF F32, split": Form(as_gguf("F32", split=9), LOSSLESS),
    "fp64": Form(as_dtype(torch.float64), LOSSLESS),
    "fp32": Form(as_dtype(torch.float32), LOSSLESS),
    "fp16": Form(as_dtype(torch.float16), HALF),
    "bf16": Form(as_dtype(torch.bfloat16), HALF),
    "multimodal wrapper": Form(as_wrapper, LOSSLESS),
    "adapter of zeros": Form(as_adapter_of_zeros, LOSSLESS),
    "GGUF F16": Form(as_gguf("F16"), HALF),
    "GGUF Q8_0": Form(as_gguf("Q8_0"), EIGHT_BIT),
    "fp8 e4m3, channels": Form(as_fp8(None, torch.float8_e4m3fn), 0.995),
    "fp8 e5m2, channels": Form(as_fp8(None, torch.float8_e5m2), 0.98),
    "fp8 e4m3, blocks": Form(as_fp8(128, torch.float8_e4m3fn), 0.995),
    "bitsandbytes int8": Form(as_bitsandbytes("int8"), EIGHT_BIT),
    "GGUF Q5_1": Form(as_gguf("Q5_1"), FOUR_BIT),
    # llama.cpp quantises a tied embedding to Q6_K, or to Q8_0 if its width is no multiple of 256.
    "GGUF Q4_0, tied": Form(as_gguf("Q4_0", embedding="Q8_0"), FOUR_BIT),
    # An untied embedding has 4 bits, too. With 112 columns this affects whitening: ICS 0.969.
    "GGUF Q4_0, untied": Form(as_gguf("Q4_0"), 0.96),
    "GPTQ 4-bit": Form(as_gptq, FOUR_BIT),
    "AWQ": Form(as_awq, FOUR_BIT),
    "nf4": Form(as_bitsandbytes("nf4"), FOUR_BIT),
    "nf4, nested": Form(as_bitsandbytes("nf4", nested=True), FOUR_BIT),
    "compressed-tensors, packed": Form(as_packed, FOUR_BIT),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_terms(
    source: Path, original: Tensor, tmp_path: Path, form: str
) -> None:
    model = FORMS[form].write(source, tmp_path / "model")
    extract = extract_terms(open_checkpoint(str(model)), RECIPE)
    similarity = float(pearson(extract.terms, original).mean())
    print(f"\n{form}: ICS {similarity:.6f}")
    assert similarity >= FORMS[form].least
    shutil.rmtree(tmp_path / "model", ignore_errors=True)
