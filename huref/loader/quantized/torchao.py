"""torchao: the parts of its tensor subclasses, as they are stored in safetensors.

A parameter x.w is stored as x._w_qdata, x._w_scale and x._w_zero_point.
Integers and 8-bit floats: qdata (..., out, in) int8 or an 8-bit float, scale and zero point with
one number for each block of an axis: W = (qdata - zero_point) * scale.
Int4Tensor: qdata (..., out, in / 2), two signed integers in a byte, lower nibble first; scale and
zero point (..., groups, out), both floats: W = qdata * scale + zero_point.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from huref.loader.quantized.bits import split_nibbles
from huref.loader.quantized.scheme import (
    EIGHT_BIT_FLOATS,
    NUMBERS,
    Plain,
    plain_info,
    require,
    require_type,
)
from huref.loader.tensors import Derived, TensorInfo, TensorStore

QDATA = re.compile(r"(?P<module>.+)\._(?P<parameter>\w+)_qdata")
PARTS = ("qdata", "scale", "zero_point", "per_tensor_scale", "act_pre_scale",
         "act_per_tensor_scale", "scale_and_zero")  # fmt: skip
ADVICE = "give the model that it was quantised from"


def scheme(store: TensorStore, settings: Mapping[str, Any]) -> Plain:
    """See `huref.loader.quantized.scheme.Scheme`."""
    found = {
        f"{match['module']}.{match['parameter']}": f"{match['module']}._{match['parameter']}_"
        for match in map(QDATA.fullmatch, store.names)
        if match is not None
    }
    return Plain(
        {name: partial(_derive, store, name, stem) for name, stem in found.items()},
        frozenset(stem + part for stem in found.values() for part in PARTS),
    )


def _derive(store: TensorStore, name: str, stem: str) -> Derived:
    data = store.entry(stem + "qdata")
    require(
        stem + "scale" in store.names and len(data.shape) in (2, 3) and data.dtype.itemsize == 1,
        data,
        "is packed for the kernels of one device, which huref does not read of torchao",
        advice=ADVICE,
    )
    scale = store.entry(stem + "scale")
    require(
        scale.dtype.itemsize > 1,
        data,
        "has scales of 8 bits (MX or NVFP4), which huref does not read of torchao",
        advice=ADVICE,
    )
    require_type(data, (torch.int8, torch.uint8, *EIGHT_BIT_FLOATS))
    require_type(scale, NUMBERS)
    require(
        stem + "act_pre_scale" not in store.names,
        data,
        "was multiplied by a scale of its inputs (AWQ or SmoothQuant)",
        advice=ADVICE,
    )
    names: tuple[str, ...] = (stem + "qdata", stem + "scale")
    if stem + "zero_point" not in store.names:
        return _derive_blocks(name, names, data, scale)
    zero = store.entry(stem + "zero_point")
    require(zero.shape == scale.shape, data, "has zero points that do not fit its scales")
    names = (*names, stem + "zero_point")
    if zero.dtype.is_floating_point:
        require_type(data, (torch.int8, torch.uint8))
        require_type(zero, NUMBERS)
        return _derive_int4(name, names, data, scale)
    return _derive_blocks(name, names, data, scale)


def _derive_blocks(
    name: str, names: tuple[str, ...], data: TensorInfo, scale: TensorInfo
) -> Derived:
    shape = data.shape
    fits = len(scale.shape) == len(shape) and all(
        count > 0 and size % count == 0 for size, count in zip(shape, scale.shape, strict=False)
    )
    require(fits, data, f"does not fit its scales of shape {list(scale.shape)}")
    blocks = [size // count for size, count in zip(shape, scale.shape, strict=True)]

    def spread(values: Tensor, rows: int) -> Tensor:
        for axis, block in enumerate(blocks):
            if 1 < block < shape[axis]:
                values = values.repeat_interleave(block, axis)
        return values[:rows] if len(values) > 1 else values

    def combine(parts: list[Tensor]) -> Tensor:
        values, rows = parts[0].float(), len(parts[0])
        if len(parts) == 3:
            values -= spread(parts[2].float(), rows)
        return values.mul_(spread(parts[1].float(), rows))

    each = blocks[0] == 1  # a row of the scales for each row of the matrix
    by_rows = (True,) + (each,) * (len(names) - 1)
    whole = blocks[0] == shape[0]
    return Derived(
        plain_info(name, data, shape), names, combine, by_rows=by_rows if each or whole else None
    )


def _derive_int4(name: str, names: tuple[str, ...], data: TensorInfo, scale: TensorInfo) -> Derived:
    columns = data.shape[-1] * 2
    fits = len(scale.shape) == len(data.shape) and scale.shape[-1] == data.shape[-2]
    groups = scale.shape[-2] if fits else 0
    require(
        fits and scale.shape[:-2] == data.shape[:-2] and groups > 0 and columns % groups == 0,
        data,
        f"does not fit its scales of shape {list(scale.shape)}",
    )

    def combine(parts: list[Tensor]) -> Tensor:
        nibbles = split_nibbles(parts[0].view(torch.uint8), low_first=True)
        signed = (nibbles ^ 8).float() - 8
        grouped = signed.reshape(*signed.shape[:-1], groups, -1)
        grouped = grouped * parts[1].float().mT[..., None] + parts[2].float().mT[..., None]
        return grouped.flatten(-2)

    stacked = len(data.shape) == 3  # then the first axis of every part counts experts
    return Derived(
        plain_info(name, data, (*data.shape[:-1], columns)),
        names,
        combine,
        by_rows=(True, True, True) if stacked else None,
    )
