"""Quantised forms whose settings or parts are odd: refused by name, or read as if they were not.

Each value of the settings is replaced by odd ones, and each part of a matrix by one of another
type, shape or value. What remains readable must give the same matrix. `scripts.fuzz odd` looks for
errors that are not huref's; this looks for other numbers.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from huref.errors import HurefError
from huref.loader.checkpoint import open_checkpoint

OUT, IN = 64, 96
Parts = dict[str, Tensor]
Settings = dict[str, Any]


def words(*shape: int) -> Tensor:
    return torch.randint(-(2**31), 2**31 - 1, shape).to(torch.int32)


def octets(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def scales(*shape: int) -> Tensor:
    return torch.rand(*shape) * 0.02 + 0.01


def text(**values: Any) -> Tensor:
    state = {"blocksize": 64, "dtype": "float16", "shape": [OUT, IN], **values}
    return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)


def forms() -> dict[str, tuple[Settings, Parts]]:
    """name -> (quantization_config, parts of the module x)."""
    torch.manual_seed(0)
    e4m3 = torch.float8_e4m3fn
    groups = (torch.arange(IN) // 32).int()
    state = "weight.quant_state.bitsandbytes__nf4"
    table = torch.linspace(-1, 1, 16)

    def compressed(kind: str, **weights: Any) -> Settings:
        group = {"targets": ["Linear"], "weights": weights}
        return {"quant_method": "compressed-tensors", "format": kind, "config_groups": {"g": group}}

    integers = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group"}
    return {
        "GPTQ": (
            {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False,
             "checkpoint_format": "gptq", "dynamic": {"+:x": {"bits": 4}}},
            {"qweight": words(12, OUT), "qzeros": words(3, 8), "scales": scales(3, OUT).half(),
             "g_idx": groups}),
        "AutoRound": (
            {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": False,
             "packing_format": "auto_round:auto_gptq"},
            {"qweight": words(12, OUT), "qzeros": words(3, 8), "scales": scales(3, OUT).half()}),
        "AWQ": (
            {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"},
            {"qweight": words(IN, 8), "qzeros": words(3, 8), "scales": scales(3, OUT).half()}),
        "nf4": (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            {"weight": octets(OUT * IN // 2, 1), "weight.absmax": scales(OUT * IN // 64),
             "weight.quant_map": table, state: text()}),
        "nf4 twice": (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            {"weight": octets(OUT * IN // 2, 1), "weight.absmax": octets(OUT * IN // 64),
             "weight.quant_map": table, "weight.nested_absmax": scales(1),
             "weight.nested_quant_map": torch.linspace(-1, 1, 256),
             state: text(nested_blocksize=256, nested_offset=0.1)}),
        "int8 of bitsandbytes": (
            {"quant_method": "bitsandbytes", "load_in_8bit": True},
            {"weight": octets(OUT, IN).view(torch.int8), "SCB": scales(OUT)}),
        "FP8 in blocks": (
            {"quant_method": "fp8", "weight_block_size": [32, 32]},
            {"weight": torch.randn(OUT, IN).to(e4m3), "weight_scale_inv": scales(2, 3)}),
        "packed integers": (
            compressed("pack-quantized", **integers, group_size=32),
            {"weight_packed": words(OUT, 12), "weight_scale": scales(OUT, 3),
             "weight_zero_point": words(8, 3), "weight_shape": torch.tensor([OUT, IN]),
             "weight_g_idx": groups}),
        "8-bit integers": (
            compressed("int-quantized", num_bits=8, type="int", strategy="channel"),
            {"weight": octets(OUT, IN).view(torch.int8), "weight_scale": scales(OUT, 1),
             "weight_zero_point": torch.zeros(OUT, 1, dtype=torch.int8)}),
        "NVFP4 of compressed-tensors": (
            compressed("nvfp4-pack-quantized", num_bits=4, type="float", group_size=16),
            {"weight_packed": octets(OUT, 48), "weight_scale": (scales(OUT, 6) + 1).to(e4m3),
             "weight_global_scale": torch.tensor([3.0])}),
        "NVFP4 of ModelOpt": (
            {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16},
            {"weight": octets(OUT, 48), "weight_scale": (scales(OUT, 6) + 1).to(e4m3),
             "weight_scale_2": torch.tensor(0.1)}),
        "MLX": (
            {"bits": 4, "group_size": 32, "mode": "affine", "x": {"bits": 4, "group_size": 32}},
            {"weight": words(OUT, 12).view(torch.uint32), "scales": scales(OUT, 3).half(),
             "biases": -scales(OUT, 3).half()}),
        "MXFP4 of MLX": (
            {"bits": 4, "group_size": 32, "mode": "mxfp4"},
            {"weight": words(OUT, 12).view(torch.uint32),
             "scales": torch.full((OUT, 3), 120, dtype=torch.uint8)}),
        "torchao": (
            {"quant_method": "torchao", "quant_type": {"default": {}}},
            {"_weight_qdata": octets(OUT, IN).view(torch.int8), "_weight_scale": scales(OUT, 3),
             "_weight_zero_point": torch.zeros(OUT, 3, dtype=torch.int8)}),
        "Int4Tensor": (
            {"quant_method": "torchao"},
            {"_weight_qdata": octets(OUT, 48).view(torch.int8),
             "_weight_scale": scales(3, OUT).bfloat16(),
             "_weight_zero_point": scales(3, OUT).bfloat16()}),
        "HQQ": (
            {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}},
            {"W_q": octets(48, 64), "scale": scales(96, 1).half(), "zero": scales(96, 1).half(),
             "shape": torch.tensor([OUT, IN]), "axis": torch.tensor([1]),
             "nbits": torch.tensor([4])}),
        "quanto": (
            {"quant_method": "quanto", "weights": "int8"},
            {"weight._data": octets(OUT, IN).view(torch.int8), "weight._scale": scales(OUT, 1)}),
        "BitNet": (
            {"quant_method": "bitnet"},
            {"weight": octets(OUT // 4, IN) & 0x55, "weight_scale": torch.tensor([3.0])}),
        "MXFP4": (
            {"quant_method": "mxfp4"},
            {"gate_up_proj_blocks": octets(2, 8, 2, 16),
             "gate_up_proj_scales": torch.full((2, 8, 2), 120, dtype=torch.uint8)}),
    }  # fmt: skip


FORMS = forms()
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 3, 8, 10**9, 10**400, 0.5, float("nan"), "4", "", [], [4], {}, {"a": {}},
    "(a+)+$",
)  # fmt: skip
TYPES = (torch.int64, torch.int16, torch.int8, torch.uint8, torch.bool, torch.float32)
INDICES = ("g_idx", "weight_g_idx")
# What other numbers may mean: (form, setting or part, kind of change). Everything else is refused
# or changes nothing.
MEANT = {
    # Blocks are those that fit the scales (docs/formats.md), and one scale fits every matrix.
    ("FP8 in blocks", "weight_scale_inv", "shape"), ("8-bit integers", "weight_scale", "shape"),
    ("quanto", "weight._scale", "shape"), ("HQQ", "zero", "shape"),
    # A byte is a power of two where a number is expected, and an integer without a sign.
    ("FP8 in blocks", "weight_scale_inv", "type"), ("8-bit integers", "weight_scale", "type"),
    ("FP8 in blocks", "weight", "type"), ("torchao", "_weight_qdata", "type"),
}  # fmt: skip


def read(folder: Path, settings: object, parts: Parts) -> dict[str, Tensor]:
    """All tensors of a model with one quantised matrix."""
    tensors = {"norm.weight": torch.ones(3)}
    tensors |= {f"x.{name}": part.contiguous().clone() for name, part in parts.items()}
    save_file(tensors, folder / "model.safetensors")
    config = {"model_type": "llama", "quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = open_checkpoint(str(folder))
    return checkpoint.read(checkpoint.names)


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The places of all values inside a value, and its own."""
    yield ()
    pairs = value.items() if isinstance(value, dict) else []
    for key, inner in enumerate(value) if isinstance(value, list) else pairs:
        yield from ((key, *place) for place in places(inner))


def replaced(value: Any, place: tuple[Any, ...], odd: Any) -> Any:
    if not place:
        return odd
    found = copy.copy(value)
    found[place[0]] = replaced(value[place[0]], place[1:], odd)
    return found


def changes(name: str, part: Tensor) -> Iterator[tuple[str, Tensor | None]]:
    """(kind of change, the part after it); None where it is left out."""
    yield "absent", None
    signed = part.view(torch.int32) if part.dtype == torch.uint32 else part
    for dtype in TYPES:
        if dtype != signed.dtype and not (signed.is_floating_point() and dtype == torch.float32):
            yield "type", signed.float().to(dtype)
    if part.dtype.itemsize > 1 and part.dim():
        yield "type", part.view(torch.uint8)
    yield from (("shape", other) for other in (part.flatten(), part[None], part.flatten()[:0]))
    if part.dim():
        yield from (("shape", other) for other in (part[:-1], torch.cat([part, part]), part[:1]))
    if part.dim() > 1:
        twice = torch.cat([part, part], -1)
        yield from (("shape", other) for other in (part.mT, part[..., :-1], twice, part[..., :1]))
    yield "shape", part.flatten()[:1]
    yield "shape", part.flatten()[0]
    if name in INDICES:
        for index in (-2, 3, 2**31 - 1):
            other = part.clone()
            other[-1] = index
            yield "value", other
    elif part.is_floating_point():
        for value in (float("nan"), float("inf")):
            other = part.float().clone()
            other.view(-1)[-1] = value
            if not other.to(part.dtype).float().isfinite().all():
                yield "value", other.to(part.dtype)


def outcome(folder: Path, settings: object, parts: Parts, plain: dict[str, Tensor]) -> str:
    """`same`, `refused`, `seen` (shape, type or an infinite number is refused later) or `other`."""
    try:
        found = read(folder, settings, parts)
    except HurefError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 700
        assert any(word in message for word in ("config", "x.", "safetensors")), message
        return "refused"
    if all(name in found and torch.equal(found[name], plain[name]) for name in plain):
        return "same"
    for tensor in found.values():
        if not tensor.is_floating_point() or not tensor.float().isfinite().all():
            return "seen"
    shapes = [tensor.shape for tensor in found.values()]
    if shapes != [tensor.shape for tensor in plain.values()]:
        return "seen"
    return "other"


@pytest.mark.parametrize("form", FORMS)
def test_odd_settings(tmp_path: Path, form: str) -> None:
    settings, parts = FORMS[form]
    plain = read(tmp_path, settings, parts)
    assert len(plain) == 2
    for place in places(settings):
        for odd in ODD:
            found = outcome(tmp_path, replaced(settings, place, odd), parts, plain)
            assert found != "other", (place, odd)


@pytest.mark.parametrize("form", FORMS)
def test_odd_parts(tmp_path: Path, form: str) -> None:
    settings, parts = FORMS[form]
    plain = read(tmp_path, settings, parts)
    for name, part in parts.items():
        for kind, other in changes(name, part):
            others = {key: value for key, value in parts.items() if key != name}
            if other is not None:
                others[name] = other
            found = outcome(tmp_path, settings, others, plain)
            shown = "" if other is None else f"{other.dtype} {list(other.shape)}"
            assert found != "other" or (form, name, kind) in MEANT, (name, kind, shown)


def test_indices_that_were_not_filled_in(tmp_path: Path) -> None:
    """compressed-tensors takes -1 for the order of columns."""
    settings, parts = FORMS["packed integers"]
    plain = read(tmp_path, settings, parts)
    unset = torch.full((IN,), -1, dtype=torch.int32)
    found = read(tmp_path, settings, parts | {"weight_g_idx": unset})
    assert torch.equal(found["x.weight"], plain["x.weight"])


@pytest.mark.parametrize("name", ["GPTQ", "NVFP4 of ModelOpt"])
def test_settings_in_two_files(tmp_path: Path, name: str) -> None:
    """The tensors decide, whatever two files say."""
    settings, parts = FORMS[name]
    plain = read(tmp_path, settings, parts)
    other = {"bits": 8, "group_size": -1, "quantization": {"quant_algo": "FP8", "group_size": None}}
    for file in ("quantize_config.json", "quant_config.json", "hf_quant_config.json"):
        (tmp_path / file).write_text(json.dumps(other))
        assert outcome(tmp_path, settings, parts, plain) == "same"
        (tmp_path / file).write_text("[" * 5000)
        assert outcome(tmp_path, settings, parts, plain) == "refused"
        (tmp_path / file).unlink()


def test_ten_thousand_modules_in_the_settings(tmp_path: Path) -> None:
    settings, parts = FORMS["GPTQ"]
    plain = read(tmp_path, settings, parts)
    dynamic = {f"+:(a+)+{i}$": {"bits": 8, "group_size": 64} for i in range(10_000)}
    assert outcome(tmp_path, settings | {"dynamic": dynamic}, parts, plain) == "same"
    deep: Any = {"bits": 4}
    for _ in range(200):
        deep = {"a": deep}
    assert outcome(tmp_path, settings | {"dynamic": deep}, parts, plain) in ("same", "refused")
