"""GPTQ: integers packed along the inputs, with scales and zero points for groups of inputs.

A linear layer consists of qweight (in * bits / 32, out) int32, scales (groups, out), qzeros
(groups, out * bits / 32) int32 and, with act-order, g_idx (in): the group of each input.
W[i, o] = scales[g, o] * (q[i, o] - zero[g, o]), with g = g_idx[i]. The first version of the
format stores zero - 1; "gptq_v2" stores zero.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from huref.errors import CheckpointError
from huref.loader.quantized.bits import unpack_words
from huref.loader.quantized.scheme import Plain, plain_info, require, stems
from huref.loader.tensors import Derived, TensorStore

PARTS = (".qweight", ".qzeros", ".scales", ".g_idx")


def scheme(store: TensorStore, settings: Mapping[str, Any]) -> Plain:
    """See `huref.loader.quantized.scheme.Scheme`."""
    bits = settings.get("bits", settings.get("w_bit"))
    if bits not in (2, 3, 4, 8):
        raise CheckpointError(f"the quantisation config has bits = {bits!r}; GPTQ has 2, 3, 4 or 8")
    offset = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
    found = stems(store.names, ".qweight")

    def derive(stem: str) -> Derived:
        packed = store.entry(stem + ".qweight")
        require(len(packed.shape) == 2, packed, "is not a matrix")
        rows = packed.shape[0] * 32 // bits
        scales = store.entry(stem + ".scales")
        groups = scales.shape[0]
        sources = [stem + ".qweight", stem + ".scales", stem + ".qzeros"]
        with_order = stem + ".g_idx" in store.names
        if with_order:
            sources.append(stem + ".g_idx")
        require(scales.shape[-1] == packed.shape[1], packed, "does not fit its scales")
        require(groups > 0 and rows >= groups, packed, f"has {groups} groups")

        def combine(parts: list[Tensor]) -> Tensor:
            integers = unpack_words(parts[0], bits)
            if with_order:
                group_of = parts[3][: len(integers)].long()
            else:
                group_of = torch.arange(len(integers)) // -(-rows // groups)
            zeros = unpack_words(parts[2].T.contiguous(), bits).T[:, : packed.shape[1]]
            zeros = (zeros + offset) & ((1 << bits) - 1)
            weight = integers.float()
            weight -= zeros.float()[group_of]
            weight *= parts[1].float()[group_of]
            return weight.T

        info = plain_info(stem + ".weight", packed, (packed.shape[1], rows))
        sample = (True,) + (False,) * (len(sources) - 1)
        return Derived(info, tuple(sources), combine, by_sample=sample)

    return Plain(
        {stem + ".weight": partial(derive, stem) for stem in found},
        frozenset(stem + part for stem in found for part in PARTS),
    )
