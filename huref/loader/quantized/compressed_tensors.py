"""compressed-tensors: packed integers, 4-bit floats in small groups, and 8-bit matrices.

pack-quantized: weight_packed (out, in * bits / 32) int32, where 2^(bits - 1) has been added to each
signed integer; weight_scale (out, groups), weight_zero_point packed along the outputs,
weight_g_idx (in).
nvfp4: weight_packed (out, in / 2) uint8, two E2M1 values per byte, lower nibble first;
weight_scale (out, in / 16) e4m3, divided by weight_global_scale.
mxfp4: as nvfp4, with weight_scale (out, in / 32) E8M0 and no global scale.
The 8-bit formats are read by `scaled`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from huref.errors import CheckpointError
from huref.loader.quantized import scaled
from huref.loader.quantized.bits import E2M1, decode_nibbles, exponents, unpack_words
from huref.loader.quantized.scheme import Plain, plain_info, require, require_one_number, stems
from huref.loader.tensors import Derived, TensorStore

PACKED = ".weight_packed"
PARTS = (
    PACKED, ".weight_scale", ".weight_zero_point", ".weight_g_idx", ".weight_shape",
    ".weight_global_scale", ".input_global_scale", ".input_scale",
)  # fmt: skip


def scheme(store: TensorStore, settings: Mapping[str, Any]) -> Plain:
    """See `huref.loader.quantized.scheme.Scheme`."""
    sparsity = _table(settings.get("sparsity_config"))
    if sparsity.get("format", "dense") != "dense":
        raise CheckpointError(
            f"compressed-tensors with sparsity '{sparsity['format']}' cannot be read"
        )
    groups = _table(settings.get("config_groups")).values()
    weights = [_table(_table(group).get("weights")) for group in groups]
    widths = sorted({w["num_bits"] for w in weights if isinstance(w.get("num_bits"), int)})
    block = next(filter(None, map(_block, weights)), None)
    method = settings.get("quant_method")
    eight_bit = scaled.scheme(store, {"quant_method": method, "weight_block_size": block})
    found = stems(store.names, PACKED)
    packed = {stem + ".weight": partial(_packed, store, stem, widths) for stem in found}
    parts = {stem + part for stem in found for part in PARTS}
    return Plain({**eight_bit.derive, **packed}, eight_bit.parts | parts)


def _table(value: Any) -> dict[str, Any]:
    """The value if it is a JSON object, otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def _block(weights: dict[str, Any]) -> Any:
    """The (rows, columns) that share a scale in a config group; None where it is not given."""
    size = weights.get("group_size")
    grouped = (scaled.BLOCK[0], size) if isinstance(size, int) and size > 0 else None
    return weights.get("block_structure") or grouped


def _width(store: TensorStore, stem: str, words: int, widths: list[int]) -> int:
    """The number of bits of a module: its shape's, as groups of modules may differ."""
    if stem + ".weight_shape" in store.names:
        columns = int(store.read([stem + ".weight_shape"])[stem + ".weight_shape"].flatten()[-1])
        fitting = [b for b in widths or range(2, 9) if -(-columns * b // 32) == words]
        if len(fitting) == 1:
            return fitting[0]
    return widths[0] if len(widths) == 1 else 0


def _packed(store: TensorStore, stem: str, widths: list[int]) -> Derived:
    info, scale = store.entry(stem + PACKED), store.entry(stem + ".weight_scale")
    require(len(info.shape) == 2 == len(scale.shape), info, "is not a matrix")
    require(info.shape[0] == scale.shape[0], info, "does not fit its scales")
    if info.dtype == torch.uint8:
        return _float4(store, stem)
    bits = _width(store, stem, info.shape[1], widths)
    require(bits in range(1, 9), info, f"may have any of the widths {widths}")
    columns = info.shape[1] * 32 // bits
    if 32 % bits and stem + ".weight_shape" in store.names:  # the last word may have unused bits
        columns = int(store.read([stem + ".weight_shape"])[stem + ".weight_shape"].flatten()[-1])
        fits = -(-columns * bits // 32) == info.shape[1]
        require(fits, info, f"does not fit the {columns} columns that are stored beside it")
    names = [stem + PACKED, stem + ".weight_scale"]
    optional = [
        part for part in (".weight_zero_point", ".weight_g_idx") if stem + part in store.names
    ]
    names += [stem + part for part in optional]

    def combine(parts: list[Tensor]) -> Tensor:
        others = dict(zip(optional, parts[2:], strict=True))
        weight = _signed(parts[0].T, bits).T[:, :columns]
        if ".weight_g_idx" in others:
            group_of = others[".weight_g_idx"].long() % scale.shape[1]
        else:
            group_of = torch.arange(columns) // -(-columns // scale.shape[1])
        if ".weight_zero_point" in others:
            weight = weight - _signed(others[".weight_zero_point"], bits)[: len(weight), group_of]
        scales: Tensor = parts[1].float()[:, group_of]
        return weight * scales

    return Derived(
        plain_info(stem + ".weight", info, (info.shape[0], columns)),
        tuple(names),
        combine,
        by_rows=(True, True) if not optional else None,
    )


def _signed(words: Tensor, bits: int) -> Tensor:
    """Unpack signed integers that are packed along the first axis, as float32."""
    return unpack_words(words.contiguous(), bits).float().sub_(2 ** (bits - 1))


def _float4(store: TensorStore, stem: str) -> Derived:
    info, scale = store.entry(stem + PACKED), store.entry(stem + ".weight_scale")
    columns = info.shape[1] * 2
    require(columns % scale.shape[1] == 0, info, "does not fit its scales")
    with_global = stem + ".weight_global_scale" in store.names

    def combine(parts: list[Tensor]) -> Tensor:
        values = decode_nibbles(parts[0], torch.tensor(E2M1), low_first=True)
        scales = parts[1]
        factors = scales.float()
        if scales.dtype == torch.uint8:
            factors = exponents(scales)
        if with_global:
            factors = factors / parts[2].float()
        return values.view(*factors.shape, -1).mul_(factors[..., None]).flatten(1)

    names = [stem + PACKED, stem + ".weight_scale"]
    if with_global:
        names.append(stem + ".weight_global_scale")
        require_one_number(store, names[-1])
    return Derived(
        plain_info(stem + ".weight", info, (info.shape[0], columns)),
        tuple(names),
        combine,
        by_rows=(True, True, False)[: len(names)],
    )
