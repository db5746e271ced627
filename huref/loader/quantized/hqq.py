"""HQQ: integers packed along the first axis of the grouped matrix, with scales and zero points.

x.W_q is the matrix reshaped to (groups, group size) for axis 1, or to (group size, groups) for
axis 0, and packed: of 8 / bits values in a byte, the highest bits belong to the first rows.
W = (q - x.zero) * x.scale, reshaped to x.shape. Ten values of 3 bits share an int32.
"""

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from huref.loader.quantized.scheme import (
    NUMBERS,
    Plain,
    plain_info,
    require,
    require_type,
    stems,
)
from huref.loader.tensors import Derived, TensorStore

ENDS = (
    ".W_q", ".scale", ".zero", ".shape", ".nbits", ".group_size", ".axis", ".packing",
    ".unpack_view_dtype", ".view_as_float", ".quant_scale", ".quant_zero", ".offload_meta",
    ".encoded_state_dict", ".stores_quant_config", ".channel_wise", ".optimize", ".round_zero",
    ".compute_dtype", ".initialized", ".quant_config", ".use_cuda_stream",
)  # fmt: skip
LARGEST = 2**31  # elements of a matrix


def scheme(store: TensorStore, settings: Mapping[str, Any]) -> Plain:
    """See `huref.loader.quantized.scheme.Scheme`."""
    found = stems(store.names, ".W_q")
    return Plain(
        {stem + ".weight": partial(_derive, store, stem) for stem in found},
        frozenset(stem + end for stem in found for end in ENDS),
    )


def _derive(store: TensorStore, stem: str) -> Derived:
    packed = store.entry(stem + ".W_q")
    names = [stem + ".shape", stem + ".axis"]
    require(
        all(name in store.names for name in (*names, stem + ".scale", stem + ".zero")),
        packed,
        "lacks its shape, axis, scale or zero point",
        advice="save the model with a current hqq or transformers",
    )
    meta = store.read(names)
    shape = tuple(int(n) for n in meta[names[0]].flatten().tolist())
    axis = int(meta[names[1]].flatten()[0])
    scale = store.entry(stem + ".scale")
    groups = max(scale.shape, default=0)
    require_type(packed, (torch.uint8, torch.int32))
    require_type(scale, NUMBERS)
    require_type(store.entry(stem + ".zero"), NUMBERS)
    count = shape[0] * shape[1] if len(shape) == 2 and min(shape) > 0 else 0
    require(
        0 < count < LARGEST and len(packed.shape) == 2 and groups > 0 and count % groups == 0,
        packed,
        f"does not fit the shape {list(shape)} that is stored beside it",
    )
    zero = store.entry(stem + ".zero")
    require(
        max(zero.shape, default=1) in (1, groups)
        and prod(scale.shape) == groups
        and prod(zero.shape) in (1, groups),
        packed,
        f"does not fit its zero point of shape {list(zero.shape)}",
    )
    size = count // groups
    rows, columns = (groups, size) if axis == 1 else (size, groups)
    is_three = packed.dtype == torch.int32
    each = 10 if is_three else rows // max(packed.shape[0], 1)
    require(
        packed.shape[1] == columns
        and (packed.shape[0] * 10 >= rows if is_three else each in (1, 2, 4, 8)),
        packed,
        f"does not fit {groups} groups of {size}",
    )
    bits = 3 if is_three else 8 // each
    if stem + ".nbits" in store.names:
        stated = store.read([stem + ".nbits"])[stem + ".nbits"].flatten().tolist()
        require(
            stated == [bits], packed, f"has {bits} bits, but {stated!s:.40} is stored beside it"
        )

    def combine(parts: list[Tensor]) -> Tensor:
        shifts = range(bits * (each - 1), -1, -bits)
        integers = torch.cat([(parts[0] >> shift) & (2**bits - 1) for shift in shifts])[:rows]
        values = (integers.float() - parts[2].float()) * parts[1].float()
        return values.reshape(shape)

    info = plain_info(stem + ".weight", packed, shape)
    return Derived(info, (stem + ".W_q", stem + ".scale", stem + ".zero"), combine)
