"""BitNet: weights of -1, 0 and 1, four to a byte along the outputs, and one scale for a matrix.

x.weight (out / 4, in) uint8: bits 2 i and 2 i + 1 of a byte are the value plus one of row
i * out / 4 + its own row. The matrix is that value divided by x.weight_scale.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from huref.loader.quantized.scheme import (
    NUMBERS,
    Plain,
    finite_divisor,
    plain_info,
    require,
    require_one_number,
    require_type,
    stems,
)
from huref.loader.tensors import Derived, TensorStore


def scheme(store: TensorStore, settings: Mapping[str, Any]) -> Plain:
    """See `huref.loader.quantized.scheme.Scheme`."""
    found = [
        stem
        for stem in stems(store.names, ".weight_scale")
        if stem + ".weight" in store.names and store.entry(stem + ".weight").dtype == torch.uint8
    ]
    return Plain(
        {stem + ".weight": partial(_derive, store, stem) for stem in found},
        frozenset(stem + end for stem in found for end in (".weight", ".weight_scale")),
    )


def _derive(store: TensorStore, stem: str) -> Derived:
    packed, scale = store.entry(stem + ".weight"), store.entry(stem + ".weight_scale")
    require(len(packed.shape) == 2, packed, "is not a matrix")
    require_one_number(store, stem + ".weight_scale")
    require_type(scale, NUMBERS)

    def combine(parts: list[Tensor]) -> Tensor:
        values = torch.cat([(parts[0] >> 2 * i & 3).float() - 1 for i in range(4)])
        return values / finite_divisor(parts[1]).reshape(())

    shape = (4 * packed.shape[0], packed.shape[1])
    info = plain_info(stem + ".weight", packed, shape)
    return Derived(info, (stem + ".weight", stem + ".weight_scale"), combine)
