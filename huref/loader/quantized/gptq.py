"""GPTQ: integers packed along the inputs, with scales and zero points for groups of inputs.

A linear layer consists of qweight (in * bits / 32, out) int32, scales (groups, out), qzeros
(groups, out * bits / 32) int32 and, with act-order, g_idx (in): the group of each input.
W[i, o] = scales[g, o] * (q[i, o] - zero[g, o]), with g = g_idx[i]. The first version of the
format stores zero - 1; "gptq_v2" stores zero.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from huref.errors import CheckpointError
from huref.loader.quantized import awq
from huref.loader.quantized.bits import unpack_words
from huref.loader.quantized.scheme import (
    INTEGERS,
    NUMBERS,
    WORDS,
    Plain,
    plain_info,
    require,
    require_groups,
    require_shape,
    require_type,
    stated_sizes,
    stems,
)
from huref.loader.tensors import Derived, TensorStore

WIDTHS = range(2, 9)
_PACKINGS = re.compile(r"^auto_|gptq|awq")  # AutoRound's
PARTS = (".qweight", ".qzeros", ".scales", ".g_idx")


def scheme(store: TensorStore, settings: Mapping[str, Any]) -> Plain:
    """See `huref.loader.quantized.scheme.Scheme`.

    The width of each module is that of its zero points, as modules may have widths of their own.
    """
    default = settings.get("bits", settings.get("w_bit"))
    packing = settings.get("packing_format", "")
    if not isinstance(packing, str) or (packing and not _PACKINGS.search(packing)):
        raise CheckpointError(
            f"its quantization_config has packing_format = {packing!r:.60}, which is not known"
        )
    if "awq" in packing:
        return awq.scheme(store, {**settings, "bits": default, "version": "gemm"})
    version = str(settings.get("checkpoint_format", ""))
    sizes = stated_sizes(settings)
    found = stems(store.names, ".qweight")

    def derive(stem: str) -> Derived:
        packed = store.entry(stem + ".qweight")
        require(len(packed.shape) == 2, packed, "is not a matrix")
        require_type(packed, WORDS)
        scales = store.entry(stem + ".scales")
        require_type(scales, NUMBERS)
        groups = scales.shape[0] if scales.shape else 0
        require_shape(scales, (groups, packed.shape[1]))
        with_zeros = stem + ".qzeros" in store.names
        width = _width_of(store, stem, packed.shape[1], settings) if with_zeros else default
        require(
            width in WIDTHS,
            packed,
            f"has {width!r} bits by its zero points or settings; GPTQ has 2 to 8",
        )
        bits = int(width or 0)
        rows = packed.shape[0] * 32 // bits
        require(groups > 0 and rows >= groups, packed, f"has {groups} groups")
        if with_zeros:
            zeros = store.entry(stem + ".qzeros")
            require_type(zeros, WORDS)
            require_shape(zeros, (groups, -(-packed.shape[1] * bits // 32)))
        else:
            require(settings.get("sym") is not False, packed, "has no zero points")
        if stem + ".g_idx" in store.names:
            index = store.entry(stem + ".g_idx")
            require_type(index, INTEGERS)
            require_shape(index, (rows,))
        else:
            require_groups(scales, rows, groups, sizes)
        sources = [stem + ".qweight", stem + ".scales"]
        roles = [part for part in (".qzeros", ".g_idx") if stem + part in store.names]
        sources += [stem + role for role in roles]

        def combine(parts: list[Tensor]) -> Tensor:
            others = dict(zip(roles, parts[2:], strict=True))
            integers = unpack_words(parts[0], bits)
            if ".g_idx" in others:
                group_of = others[".g_idx"].long()
                if int(group_of.min()) < 0 or int(group_of.max()) >= groups:
                    raise ValueError(f"its g_idx has other groups than 0 to {groups - 1}")
                group_of = group_of[: len(integers)]  # of a sample
            else:
                group_of = torch.arange(len(integers)) // -(-rows // groups)
            weight = integers.float()
            if ".qzeros" in others:
                words = others[".qzeros"]
                zeros = unpack_words(words.T.contiguous(), bits).T[:, : packed.shape[1]]
                offset = _offset(zeros, bits, version, packing)
                zeros = (zeros + offset) & ((1 << bits) - 1)
                weight -= zeros.float()[group_of]
            else:
                weight -= 2 ** (bits - 1)
            weight *= parts[1].float()[group_of]
            return weight.T

        info = plain_info(stem + ".weight", packed, (packed.shape[1], rows))
        sample = (True,) + (False,) * (len(sources) - 1)
        return Derived(info, tuple(sources), combine, by_sample=sample)

    return Plain(
        {stem + ".weight": partial(derive, stem) for stem in found},
        frozenset(stem + part for stem in found for part in PARTS),
    )


def _width_of(
    store: TensorStore, stem: str, columns: int, settings: Mapping[str, Any]
) -> int | None:
    """The number of bits of a module, by the shape of its zero points."""
    shape = store.entry(stem + ".qzeros").shape
    bits, rest = divmod(32 * shape[-1], columns) if shape and columns else (0, 1)
    if not rest and bits in WIDTHS:
        return bits
    default = settings.get("bits", settings.get("w_bit"))  # outputs that do not fill their words
    return default if type(default) is int else None


def _offset(zeros: Tensor, bits: int, version: str, packing: str) -> int:
    """What is added to the stored zero points.

    A symmetric matrix has one zero point, in the middle, which tells how it was stored.
    """
    middle = 1 << (bits - 1)
    if (zeros == middle - 1).all():
        return 1
    if (zeros == middle).all():
        return 0
    without_offset = version == "gptq_v2" or (packing != "" and "gptq" not in packing)
    return 0 if without_offset else 1
