"""optimum-quanto: 8-bit integers or floats with a scale for each output.

x.weight._data (out, in) int8 or an 8-bit float, x.weight._scale (out, 1): W = data * scale.
Of 2 and 4 bits only the list of groups is stored (x.weight._data._data), not the matrix's shape, so
these are refused.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from huref.loader.quantized.scheme import (
    EIGHT_BIT_FLOATS,
    NUMBERS,
    Plain,
    plain_info,
    require,
    require_type,
    stems,
)
from huref.loader.tensors import Derived, TensorStore

DATA, SCALE, SHIFT = ".weight._data", ".weight._scale", ".weight._shift"
PACKED = DATA + "._data"


def scheme(store: TensorStore, settings: Mapping[str, Any]) -> Plain:
    """See `huref.loader.quantized.scheme.Scheme`."""
    found = [*stems(store.names, DATA), *stems(store.names, PACKED)]
    ends = (DATA, PACKED, SCALE, SHIFT, ".input_scale", ".output_scale")
    return Plain(
        {stem + ".weight": partial(_derive, store, stem) for stem in found},
        frozenset(stem + end for stem in found for end in ends),
    )


def _derive(store: TensorStore, stem: str) -> Derived:
    packed = stem + PACKED in store.names
    data = store.entry(stem + (PACKED if packed else DATA))
    require(
        not packed and stem + SHIFT not in store.names and data.dtype != torch.uint8,
        data,
        "has fewer than 8 bits, which huref does not read of optimum-quanto",
        advice="give the model that it was quantised from",
    )
    require_type(data, (torch.int8, *EIGHT_BIT_FLOATS))
    scale = store.entry(stem + SCALE)
    require_type(scale, NUMBERS)
    per_row = scale.shape[:1] == data.shape[:1] and len(scale.shape) >= 1
    single = set(scale.shape) <= {1}
    per_row = per_row and (single or set(scale.shape[1:]) <= {1})
    require(len(data.shape) == 2 and (per_row or single), data, "does not fit its scales")
    return Derived(
        plain_info(stem + ".weight", data, data.shape),
        (stem + DATA, stem + SCALE),
        lambda parts: (
            parts[0].float()
            * (parts[1].float().reshape(-1, 1) if per_row else parts[1].float().reshape(1, 1))
        ),
        by_rows=(True, per_row and not single),
    )
