"""AWQ: 4-bit integers packed along the outputs, eight per 32-bit word in interleaved order.

A linear layer consists of qweight (in, out / 8) int32, scales (groups, out) and qzeros
(groups, out / 8) int32, with groups along the inputs.
W[i, o] = scales[g, o] * (q[i, o] - zero[g, o]), where g is the group of input i.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from huref.errors import CheckpointError
from huref.loader.quantized.scheme import (
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

COLUMN_OF_NIBBLE = (0, 2, 4, 6, 1, 3, 5, 7)
PARTS = (".qweight", ".qzeros", ".scales")


def unpack(words: Tensor) -> Tensor:
    """Unpack 4-bit integers: (n, columns / 8) int32 or uint32 -> (n, columns) uint8."""
    words = words.view(torch.int32)
    values = torch.empty(*words.shape, 8, dtype=torch.uint8)
    for nibble, column in enumerate(COLUMN_OF_NIBBLE):
        values[:, :, column] = (words >> (4 * nibble)) & 15
    return values.flatten(1)


def _combine(parts: list[Tensor], group_size: int) -> Tensor:
    integers = unpack(parts[0])
    group_of = torch.arange(len(integers)) // group_size
    weight = integers.float()
    weight -= unpack(parts[2]).float()[group_of]
    weight *= parts[1].float()[group_of]
    return weight.T


def scheme(store: TensorStore, settings: Mapping[str, Any]) -> Plain:
    """See `huref.loader.quantized.scheme.Scheme`."""
    bits = settings.get("bits", settings.get("w_bit", 4))
    version = str(settings.get("version", "gemm")).lower()
    if bits != 4 or version != "gemm":
        raise CheckpointError(
            f"AWQ with {bits!r:.40} bits in layout '{version:.40}', as its quantization_config has "
            "it, cannot be read, only 4 bits in 'gemm'"
        )
    found = stems(store.names, ".qweight")
    sizes = stated_sizes(settings)

    def derive(stem: str) -> Derived:
        packed, scales = store.entry(stem + ".qweight"), store.entry(stem + ".scales")
        require(len(packed.shape) == 2, packed, "is not a matrix")
        rows, columns = packed.shape[0], packed.shape[1] * 8
        zeros = store.entry(stem + ".qzeros")
        require_type(packed, WORDS)
        require_type(scales, NUMBERS)
        require_type(zeros, WORDS)
        groups = scales.shape[0] if scales.shape else 0
        require_shape(scales, (groups, columns))
        require_shape(zeros, (groups, packed.shape[1]))
        require(groups > 0 and rows % groups == 0, packed, f"has {groups} groups")
        require_groups(scales, rows, groups, sizes)
        return Derived(
            plain_info(stem + ".weight", packed, (columns, rows)),
            (stem + ".qweight", stem + ".scales", stem + ".qzeros"),
            partial(_combine, group_size=rows // groups),
            by_sample=(True, False, False),
        )

    return Plain(
        {stem + ".weight": partial(derive, stem) for stem in found},
        frozenset(stem + part for stem in found for part in PARTS),
    )
