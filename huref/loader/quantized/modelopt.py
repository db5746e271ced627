"""NVIDIA ModelOpt: NVFP4 in small groups, and 8-bit floats, which `scaled` reads.

NVFP4: x.weight (..., out, in / 2) uint8, two E2M1 values per byte, lower nibble first;
x.weight_scale (..., out, in / 16) e4m3, and x.weight_scale_2, one number for a matrix:
W = value * weight_scale * weight_scale_2.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from huref.loader.quantized import scaled
from huref.loader.quantized.bits import E2M1, decode_nibbles, decode_scales
from huref.loader.quantized.scheme import (
    NUMBERS,
    POWERS,
    Plain,
    plain_info,
    require,
    require_float4,
    require_type,
    stems,
)
from huref.loader.tensors import Derived, TensorStore

ENDS = (".weight", ".weight_scale", ".weight_scale_2", ".input_scale", ".pre_quant_scale")


def scheme(store: TensorStore, settings: Mapping[str, Any]) -> Plain:
    """See `huref.loader.quantized.scheme.Scheme`."""
    eight_bit = scaled.scheme(store, settings)
    found = find_stems(store)
    four_bit = {stem + ".weight": partial(_derive, store, stem) for stem in found}
    parts = frozenset(stem + end for stem in found for end in ENDS)
    return Plain({**eight_bit.derive, **four_bit}, eight_bit.parts | parts)


def find_stems(store: TensorStore) -> list[str]:
    """The modules with two 4-bit floats in each byte."""
    return [
        stem
        for stem in stems(store.names, ".weight_scale")
        if stem + ".weight" in store.names
        and store.entry(stem + ".weight").dtype == torch.uint8
        and len(store.entry(stem + ".weight_scale").shape) >= 2
    ]


def _derive(store: TensorStore, stem: str) -> Derived:
    packed, scale = store.entry(stem + ".weight"), store.entry(stem + ".weight_scale")
    columns = packed.shape[-1] * 2
    require_float4(packed, scale, columns)
    require(
        stem + ".pre_quant_scale" not in store.names,
        packed,
        "was multiplied by a scale of its inputs (AWQ), which other layers divide by",
        advice="give the model that it was quantised from",
    )
    names = [stem + ".weight", stem + ".weight_scale"]
    second = stem + ".weight_scale_2"
    by_rows = [True, True]
    require(
        second in store.names or scale.dtype in POWERS, packed, "has no second scale for the matrix"
    )
    if second in store.names:
        names.append(second)
        require_type(store.entry(second), NUMBERS)
        outer = store.entry(second).shape
        by_rows.append(outer[:1] == packed.shape[:1] and len(packed.shape) > 2)
        require(
            set(outer) <= {1} or outer == packed.shape[: len(outer)],
            packed,
            f"does not fit its second scale of shape {list(outer)}",
        )

    def combine(parts: list[Tensor]) -> Tensor:
        values = decode_nibbles(parts[0], torch.tensor(E2M1), low_first=True)
        factors = decode_scales(parts[1])
        if len(parts) == 3:
            whole = parts[2].float()
            factors = factors * whole.reshape(*whole.shape, *(1,) * (factors.dim() - whole.dim()))
        return values.view(*factors.shape, -1).mul_(factors[..., None]).flatten(-2)

    info = plain_info(stem + ".weight", packed, (*packed.shape[:-1], columns))
    return Derived(info, tuple(names), combine, by_rows=tuple(by_rows))
