"""Writers of quantised forms, from each form's documentation; see docs/formats.md.

Each function takes a matrix (out, in) of floats and returns the tensors that encode it, by the end
of their names: `x.weight` becomes `x` with each end.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column of each nibble of a word
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
Parts = dict[str, Tensor]
Write = Callable[[str, Tensor], Parts]


def pack_bits(values: Tensor, bits: int) -> Tensor:
    """Integers as a stream of bits along the last axis in 32-bit words, lowest bits first."""
    shifts = torch.arange(bits)
    stream = (values[..., None].long() >> shifts & 1).flatten(-2)
    words = stream.reshape(*stream.shape[:-1], -1, 32) << torch.arange(32)
    return words.sum(-1).to(torch.uint32)


def round_groups(weight: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Round to the nearest of 2^bits values between the least and the largest of each group.

    Returns:
        integers (out, in), scales (out, groups) in float16's range of values, zero points
        (out, groups): W = (integer - zero point) * scale.
    """
    grouped = weight.float().reshape(len(weight), -1, group)
    least, most = grouped.amin(-1), grouped.amax(-1)
    scales = ((most - least) / (2**bits - 1)).half().float()
    zeros = (-least / scales).round().clamp(0, 2**bits - 1)
    integers = (grouped / scales[..., None]).round() + zeros[..., None]
    return integers.clamp(0, 2**bits - 1).flatten(1).long(), scales, zeros.long()


def rounded(weight: Tensor, bits: int, group: int) -> Tensor:
    """The matrix that `round_groups` stands for."""
    integers, scales, zeros = round_groups(weight, bits, group)
    spread = [part.repeat_interleave(group, 1) for part in (scales, zeros)]
    return (integers - spread[1]) * spread[0]


def gptq(weight: Tensor, bits: int, group: int) -> Parts:
    """GPTQ's first version, which stores zero points less one; rounded to the nearest."""
    integers, scales, zeros = round_groups(weight, bits, group)
    return {
        ".qweight": pack_bits(integers, bits).view(torch.int32).T,
        ".qzeros": pack_bits((zeros.T - 1) % 2**bits, bits).view(torch.int32),
        ".scales": scales.T.half(),
        ".g_idx": (torch.arange(weight.shape[1]) // group).int(),
    }


def awq(weight: Tensor, group: int) -> Parts:
    """AWQ's layout `gemm`, 4 bits; rounded to the nearest."""
    integers, scales, zeros = round_groups(weight, 4, group)

    def pack(values: Tensor) -> Tensor:
        ordered = values.reshape(len(values), -1, 8)[..., list(AWQ_ORDER)].flatten(1)
        return pack_bits(ordered, 4).view(torch.int32)

    return {".qweight": pack(integers.T), ".qzeros": pack(zeros.T), ".scales": scales.T.half()}


def mlx_affine(weight: Tensor, bits: int, group: int) -> Parts:
    """MLX's affine mode."""
    integers, scales, zeros = round_groups(weight, bits, group)
    return {".weight": pack_bits(integers, bits), ".scales": scales, ".biases": -zeros * scales}


def torchao_int4(weight: Tensor, group: int) -> Parts:
    """torchao's Int4Tensor: signed nibbles, W = q * scale + zero point, which is a float."""
    integers, scales, zeros = round_groups(weight, 4, group)
    nibbles = (integers - 8) & 15
    return {
        "._weight_qdata": (nibbles[:, 0::2] | nibbles[:, 1::2] << 4).byte().view(torch.int8),
        "._weight_scale": scales.T,
        "._weight_zero_point": ((8 - zeros) * scales).T,
    }


def ternary(weight: Tensor) -> Tensor:
    """BitNet's rounding to -1, 0 and 1, before it is divided by one over the mean size."""
    return (weight / weight.abs().mean()).round().clamp(-1, 1)


def bitnet(weight: Tensor) -> Parts:
    """BitNet, four numbers to a byte along the outputs."""
    packed = torch.zeros(len(weight) // 4, weight.shape[1], dtype=torch.uint8)
    for place, part in enumerate(ternary(weight).chunk(4)):
        packed |= (part + 1).byte() << 2 * place
    return {".weight": packed, ".weight_scale": (1 / weight.abs().mean())[None]}


def _mxfp4(stack: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (experts, out, in / 32, 32) and exponents (experts, out, in / 32) of `mxfp4`."""
    grouped = stack.mT.float().reshape(*stack.mT.shape[:-1], -1, 32)
    exponents = grouped.abs().amax(-1).log2().floor() - 2  # E2M1's largest number is 1.5 * 2^2
    scaled = grouped / torch.exp2(exponents)[..., None]
    return (scaled[..., None] - E2M1).abs().argmin(-1), exponents


def mxfp4(stack: Tensor) -> Parts:
    """gpt-oss's MXFP4 of a stack of experts (experts, in, out)."""
    codes, exponents = _mxfp4(stack)
    return {
        "_blocks": (codes[..., 0::2] | codes[..., 1::2] << 4).byte(),
        "_scales": (exponents + 127).byte(),
    }


def rounded_to_mxfp4(stack: Tensor) -> Tensor:
    """The stack that `mxfp4` stands for."""
    codes, exponents = _mxfp4(stack)
    return (E2M1[codes] * torch.exp2(exponents)[..., None]).flatten(-2).mT


def write_quantised(
    source: Path,
    target: Path,
    write: Write,
    settings: dict[str, Any],
    ends: str | tuple[str, ...] = "_proj.weight",
) -> None:
    """A copy of a model in which the tensors whose names end in `ends` are quantised.

    Args:
        source, target: folders; the second is made.
        write: takes a name and its tensor, returns the parts; see the module.
        settings: what is added to config.json.
        ends: of the tensors; the parts' names begin with what is left without `.weight`.
    """
    shutil.copytree(source, target)
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if not name.endswith(ends):
            tensors[name] = tensor
            continue
        stem = name.removesuffix(".weight")
        for end, part in write(name, tensor).items():
            tensors[stem + end] = part.contiguous().clone()
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text()) | settings
    (target / "config.json").write_text(json.dumps(config))
