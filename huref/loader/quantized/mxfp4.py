"""MXFP4 as in gpt-oss: E2M1 values in blocks of 32 inputs that share a power of two.

The experts of a layer are stacked: `x_blocks` (experts, out, in / 32, 16) uint8, lower nibble
first, and `x_scales` (experts, out, in / 32) uint8 in E8M0. The unquantised tensor is
`x` (experts, in, out).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from huref.loader.quantized.bits import E2M1, decode_nibbles, exponents
from huref.loader.quantized.scheme import POWERS, Plain, plain_info, require, require_type, stems
from huref.loader.tensors import Derived, TensorStore


def scheme(store: TensorStore, settings: Mapping[str, Any]) -> Plain:
    """See `huref.loader.quantized.scheme.Scheme`."""
    found = [s for s in stems(store.names, "_blocks") if s + "_scales" in store.names]
    return Plain(
        {stem: partial(_derive, store, stem) for stem in found},
        frozenset(stem + part for stem in found for part in ("_blocks", "_scales")),
    )


def _derive(store: TensorStore, stem: str) -> Derived:
    blocks, scales = store.entry(stem + "_blocks"), store.entry(stem + "_scales")
    require_type(blocks, (torch.uint8,))
    require_type(scales, POWERS)
    require(
        len(blocks.shape) >= 3 and blocks.shape[:-1] == scales.shape,
        blocks,
        "does not fit its scales",
    )
    require(blocks.shape[-1] == 16, blocks, "has blocks of another size than 32")
    *outer, rows, groups, half = blocks.shape
    shape = (*outer, groups * half * 2, rows)
    return Derived(
        plain_info(stem, blocks, shape),
        (stem + "_blocks", stem + "_scales"),
        _combine,
        by_rows=(True, True) if outer else None,
    )


def _combine(parts: list[Tensor]) -> Tensor:
    values = decode_nibbles(parts[0], torch.tensor(E2M1), low_first=True)
    values.mul_(exponents(parts[1])[..., None])
    return values.flatten(-2).transpose(-2, -1)
