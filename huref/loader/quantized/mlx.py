"""MLX: integers in 32-bit words, a scale and a bias for each group of inputs.

A linear layer or an embedding consists of x.weight (..., out, in * bits / 32) uint32, a stream of
bits with the lowest first, and of x.scales and x.biases (..., out, in / group):
W = scales * q + biases. The microscaling modes have no biases; their scales are uint8: E8M0 in
mxfp4 and mxfp8, e4m3 in nvfp4, and q are 4-bit (E2M1) or 8-bit (e4m3) floats.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from huref.loader.quantized.bits import E2M1, exponents, unpack_last
from huref.loader.quantized.scheme import (
    NUMBERS,
    POWERS,
    Plain,
    plain_info,
    require,
    require_shape,
    require_type,
    stems,
)
from huref.loader.tensors import Derived, TensorStore

GROUPS = (64, 32, 128, 16)
BITS = (2, 3, 4, 5, 6, 8)
FLOATS = {"mxfp4": (4, 32), "nvfp4": (4, 16), "mxfp8": (8, 32)}  # mode -> (bits, group size)


def scheme(store: TensorStore, settings: Mapping[str, Any]) -> Plain:
    """See `huref.loader.quantized.scheme.Scheme`."""
    found = find_stems(store)
    ends = (".weight", ".scales", ".biases")
    return Plain(
        {stem + ".weight": partial(_derive, store, stem, settings) for stem in found},
        frozenset(stem + end for stem in found for end in ends),
    )


def find_stems(store: TensorStore) -> list[str]:
    """The modules that are quantised in this way."""
    return [
        stem
        for stem in stems(store.names, ".scales")
        if stem + ".weight" in store.names
        and store.entry(stem + ".weight").dtype in (torch.uint32, torch.int32)
    ]


def _settings_of(
    stem: str, settings: Mapping[str, Any], with_bias: bool
) -> tuple[list[tuple[int, int]], str]:
    """The (bits, group size) that settings state for a module, its own first, and the mode."""
    own = settings.get(stem)
    for inner in (".".join(stem.split(".")[1:]), "language_model." + stem):
        own = own if isinstance(own, dict) else settings.get(inner)
    both = {**settings, "mode": "affine", **own} if isinstance(own, dict) else settings
    mode = str(both.get("mode", "affine"))
    if mode in FLOATS and not with_bias:  # affine modules among others have biases
        return [FLOATS[mode]], mode
    mode = "affine"
    found = []
    for source in (both, settings):
        bits, group = source.get("bits"), source.get("group_size")
        if type(bits) is int and type(group) is int and group > 0 and bits in BITS:
            found.append((bits, group))
    return found, mode


def _derive(store: TensorStore, stem: str, settings: Mapping[str, Any]) -> Derived:
    words, scales = store.entry(stem + ".weight"), store.entry(stem + ".scales")
    require(
        len(words.shape) >= 2 and words.shape[:-1] == scales.shape[:-1],
        words,
        f"does not fit its scales of shape {list(scales.shape)}",
    )
    groups = scales.shape[-1]
    with_bias = stem + ".biases" in store.names
    stated, mode = _settings_of(stem, settings, with_bias)

    def fitting(choices: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        return [c for c in choices if words.shape[-1] * 32 == c[0] * c[1] * groups]

    usual = fitting((b, g) for g in GROUPS for b in BITS) if mode not in FLOATS else []
    found = fitting(stated) or usual
    require(bool(found), words, f"fits no width and group size with {groups} groups")
    require(
        not stated or found[0] in stated or len(usual) == 1,
        words,
        "has neither {} bits nor groups of {}, as its settings have it, and fits several "
        "others".format(*(stated[0] if stated else (0, 0))),
        advice="put the model's own config.json beside the weights",
    )
    bits, group = found[0]
    columns = groups * group
    names = [stem + ".weight", stem + ".scales"]
    require(with_bias != (mode in FLOATS), words, "has no biases, which the affine mode has")
    require_type(scales, NUMBERS if with_bias else POWERS)
    if with_bias:
        require_type(store.entry(stem + ".biases"), NUMBERS)
        require_shape(store.entry(stem + ".biases"), scales.shape)
        names.append(stem + ".biases")

    def combine(parts: list[Tensor]) -> Tensor:
        integers = unpack_last(parts[0], bits)
        integers = integers.reshape(*integers.shape[:-1], groups, group)
        values: Tensor
        if with_bias:
            values = integers.float().mul_(parts[1].float()[..., None])
            values = values.add_(parts[2].float()[..., None])
            return values.flatten(-2)
        if bits == 4:
            values = torch.tensor(E2M1)[integers.long()]
        else:
            values = integers.view(torch.float8_e4m3fn).float()
        factors = exponents(parts[1])
        if mode == "nvfp4":
            factors = parts[1].view(torch.float8_e4m3fn).float()
        values = values.mul_(factors[..., None])
        return values.flatten(-2)

    shape = (*words.shape[:-1], columns)
    info = plain_info(stem + ".weight", words, shape)
    return Derived(info, tuple(names), combine, by_rows=(True,) * len(names))
