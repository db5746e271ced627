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
from huref.loader.quantized.bits import E2M1, decode_nibbles, decode_scales, unpack_words
from huref.loader.quantized.scheme import (
    INTEGERS,
    NUMBERS,
    POWERS,
    WORDS,
    Plain,
    finite_divisor,
    plain_info,
    require,
    require_float4,
    require_groups,
    require_one_number,
    require_shape,
    require_type,
    stems,
)
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
    sizes = [size for w in weights for size in (w.get("group_size"), *_whole_rows(w))]
    is_offset = bool(weights) and all(w.get("symmetric") is False for w in weights)
    packed = {
        stem + ".weight": partial(_packed, store, stem, widths, sizes, is_offset) for stem in found
    }
    parts = {stem + part for stem in found for part in PARTS}
    return Plain({**eight_bit.derive, **packed}, eight_bit.parts | parts)


def _table(value: Any) -> dict[str, Any]:
    """The value if it is a JSON object, otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def _whole_rows(weights: dict[str, Any]) -> list[int]:
    """[-1], the size of a group that is a whole row, where a config group has such."""
    return [-1] if weights.get("strategy") in ("channel", "tensor") else []


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


def _packed(
    store: TensorStore, stem: str, widths: list[int], sizes: list[object], is_offset: bool
) -> Derived:
    """A matrix of packed numbers.

    Args:
        store: the stored tensors.
        stem: the module's name.
        widths: the numbers of bits that the settings have.
        sizes: the group sizes that they have, unchecked.
        is_offset: they say that every module has zero points.
    """
    info, scale = store.entry(stem + PACKED), store.entry(stem + ".weight_scale")
    require(len(info.shape) == 2 == len(scale.shape), info, "is not a matrix")
    require(info.shape[0] == scale.shape[0], info, "does not fit its scales")
    if info.dtype == torch.uint8:
        return _float4(store, stem)
    require_type(info, WORDS)
    require_type(scale, NUMBERS)
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
    groups = scale.shape[1]
    require_groups(scale, columns, groups, sizes)
    if ".weight_zero_point" in optional:
        zeros = store.entry(stem + ".weight_zero_point")
        require_type(zeros, WORDS)
        require_shape(zeros, (-(-info.shape[0] * bits // 32), groups))
    else:
        require(not is_offset, info, "has no zero points, which its settings say it has")
    if ".weight_g_idx" in optional:
        index = store.entry(stem + ".weight_g_idx")
        require_type(index, INTEGERS)
        require_shape(index, (columns,))

    def combine(parts: list[Tensor]) -> Tensor:
        others = dict(zip(optional, parts[2:], strict=True))
        weight = _signed(parts[0].T, bits).T[:, :columns]
        group_of = torch.arange(columns) // -(-columns // groups)
        if ".weight_g_idx" in others and int(others[".weight_g_idx"].min()) != -1:  # not filled in
            group_of = others[".weight_g_idx"].long()
            if int(group_of.min()) < 0 or int(group_of.max()) >= groups:
                raise ValueError(f"its g_idx has other groups than 0 to {groups - 1}")
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
    require_float4(info, scale, columns)
    with_global = stem + ".weight_global_scale" in store.names

    def combine(parts: list[Tensor]) -> Tensor:
        values = decode_nibbles(parts[0], torch.tensor(E2M1), low_first=True)
        factors = decode_scales(parts[1])
        if with_global:
            factors = factors / finite_divisor(parts[2])
        return values.view(*factors.shape, -1).mul_(factors[..., None]).flatten(1)

    names = [stem + PACKED, stem + ".weight_scale"]
    if with_global:
        names.append(stem + ".weight_global_scale")
        require_one_number(store, names[-1])
        require_type(store.entry(names[-1]), NUMBERS)
    require(with_global or scale.dtype in POWERS, info, "has no weight_global_scale")
    return Derived(
        plain_info(stem + ".weight", info, (info.shape[0], columns)),
        tuple(names),
        combine,
        by_rows=(True, True, False)[: len(names)],
    )
