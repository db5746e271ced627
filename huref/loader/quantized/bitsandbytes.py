"""bitsandbytes: nf4 and fp4 in blocks of the flattened matrix, int8 with one scale per output.

4-bit: `x.weight` (n / 2, 1) uint8, the first of two elements in the upper nibble. A value is
quant_map[code] * absmax[block]. The tensor `x.weight.quant_state.bitsandbytes__nf4` contains the
bytes of a JSON text with shape and block size. With nested statistics absmax is uint8 and stands
for nested_quant_map[absmax] * nested_absmax[nested block] + offset.
8-bit: W = `x.weight` int8 (out, in) * `x.SCB` (out) / 127.
"""

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from huref.bounded_json import loads_object
from huref.errors import CheckpointError
from huref.loader.quantized.bits import decode_nibbles
from huref.loader.quantized.scheme import (
    NUMBERS,
    Plain,
    plain_info,
    require,
    require_shape,
    require_type,
    stems,
)
from huref.loader.tensors import Derived, TensorStore

STATES = (".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4")
LONGEST_STATE = 64 * 1024  # bytes; one has about a hundred
NESTED = (".weight.nested_absmax", ".weight.nested_quant_map")


def scheme(store: TensorStore, settings: Mapping[str, Any]) -> Plain:
    """See `huref.loader.quantized.scheme.Scheme`."""
    derive: dict[str, Any] = {}
    parts: set[str] = set()
    for suffix in STATES:
        for stem in stems(store.names, suffix):
            derive[stem + ".weight"] = partial(_four_bit, store, stem, stem + suffix)
            ends = (suffix, ".weight.absmax", ".weight.quant_map", *NESTED)
            parts |= {stem + end for end in ends}
    for stem in stems(store.names, ".SCB"):
        derive[stem + ".weight"] = partial(_eight_bit, store, stem)
        parts |= {stem + ".SCB", stem + ".weight_format"}
    return Plain(derive, frozenset(parts | derive.keys()))


def _four_bit(store: TensorStore, stem: str, state_name: str) -> Derived:
    packed = store.entry(stem + ".weight")
    stated = store.entry(state_name)
    require(prod(stated.shape) <= LONGEST_STATE, stated, "is no quantisation state")
    try:
        text = bytes(store.read([state_name])[state_name].flatten().tolist())
        state = loads_object(text)
        shape = tuple(int(size) for size in state["shape"])
        block = int(state["blocksize"])
        nested_block = int(state.get("nested_blocksize") or 0)
        offset = float(state.get("nested_offset") or 0.0)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(
            "it is not a quantisation state of bitsandbytes", file=packed.file, tensor=state_name
        ) from error
    require(
        block > 0
        and min(shape) > 0
        and -(-prod(shape) // 2) == prod(packed.shape) * packed.dtype.itemsize,
        packed,
        f"does not fit the shape {list(shape)} of its quantisation state",
    )
    require_type(packed, (torch.uint8, *NUMBERS))  # bytes may be stored as numbers of another type
    nested = nested_block > 0
    ends = (".weight", ".weight.absmax", ".weight.quant_map", *(NESTED if nested else ()))
    blocks = -(-prod(shape) // block)
    counts = (blocks, 16, *((-(-blocks // nested_block), 256) if nested else ()))
    for number, count in zip(ends[1:], counts, strict=True):
        part = store.entry(stem + number)
        is_code = nested and number == ends[1]
        require_type(part, (torch.uint8,) if is_code else NUMBERS)
        require_shape(part, (count,))

    def combine(parts: list[Tensor]) -> Tensor:
        absmax = parts[1].float()
        if nested:
            # Not repeat_interleave: a block size from a file may be any number.
            scale = parts[3].float()[torch.arange(absmax.numel()) // nested_block]
            absmax = parts[4].float()[parts[1].long()] * scale + offset
        codes = parts[0].flatten().view(torch.uint8)
        values = decode_nibbles(codes, parts[2].float(), low_first=False)[: prod(shape)]
        full = values.numel() // block * block
        values[:full].view(-1, block).mul_(absmax[: full // block, None])
        values[full:].mul_(absmax[-1])
        return values.view(shape)

    info = plain_info(stem + ".weight", packed, shape)
    return Derived(info, tuple(stem + end for end in ends), combine)


def _eight_bit(store: TensorStore, stem: str) -> Derived:
    weight, scales = store.entry(stem + ".weight"), store.entry(stem + ".SCB")
    require(scales.shape == weight.shape[:1], weight, "does not fit its scales")
    require_type(weight, (torch.int8,))
    require_type(scales, NUMBERS)
    if stem + ".weight_format" in store.names:
        layout = store.read([stem + ".weight_format"])[stem + ".weight_format"]
        require(
            not layout.any(),
            weight,
            "is stored in the memory layout of GPU tensor cores",
            advice="save the model again with a current bitsandbytes",
        )
    return Derived(
        plain_info(stem + ".weight", weight, weight.shape),
        (stem + ".weight", stem + ".SCB"),
        lambda parts: parts[0].float() * (parts[1].float() / 127)[:, None],
        by_rows=(True, True),
    )
