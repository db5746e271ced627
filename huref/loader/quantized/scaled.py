"""8-bit floats and integers with one scale per tensor, per output or per block of both axes.

The weights are `x.weight` (out, in) times `x.weight_scale` or, in DeepSeek's releases,
`x.weight_scale_inv`, which is multiplied as well despite its name. uint8 scales are E8M0.
Integers may have an `x.weight_zero_point` of the scale's shape.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from huref.errors import CheckpointError
from huref.loader.quantized.bits import decode_scales
from huref.loader.quantized.scheme import (
    EIGHT_BIT_FLOATS,
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

# The last two are those of other programs' casts, and of no matrix unless it has 8 bits.
SCALES = (".weight_scale_inv", ".weight_scale", ".scale_weight", ".scale")
STACK_SCALES = ("_scale_inv", "_scale")  # of a parameter that is a stack of experts
OTHERS = (".weight_zero_point", ".input_scale", ".input_zero_point", ".weight_scale_2")
BLOCK = (128, 128)
BLOCKS = (16, 32, 64, 128, 256)  # sizes that need not be stated
SAVE_AGAIN = "save the model again"


def spread(scale: Tensor, shape: Sequence[int], block: Sequence[int]) -> Tensor:
    """Expand a scale so that it broadcasts against a matrix.

    Args:
        scale: one number; (out); or one axis per axis of the matrix, of which each has length 1,
            the matrix's length or its number of blocks.
        shape: shape of the matrix.
        block: block size along each axis.
    """
    if scale.numel() == 1:
        return scale.reshape((1,) * len(shape))
    if scale.dim() == 1 and len(shape) == 2:
        scale = scale[:, None]
    for axis in range(scale.dim()):
        if scale.shape[axis] not in (1, shape[axis]):
            # Not repeat_interleave: a block size from a config may be any number.
            order = torch.arange(shape[axis]) // block[axis - scale.dim()]
            scale = scale.index_select(axis, order)
    return scale


def scheme(store: TensorStore, settings: Mapping[str, Any]) -> Plain:
    """See `huref.loader.quantized.scheme.Scheme`."""
    block = settings.get("weight_block_size") or BLOCK
    if not (
        isinstance(block, list | tuple)
        and len(block) >= 2
        and all(type(size) is int and size > 0 for size in block)
    ):
        raise CheckpointError(f"its quantization_config has weight_block_size = {block!r:.60}")
    is_stated = bool(settings.get("quant_method"))
    derive: dict[str, Any] = {}
    parts: set[str] = set()
    for suffix in SCALES:
        for stem in stems(store.names, suffix):
            weight = stem + ".weight"
            if weight in store.names and _is_scaled(store, weight, suffix):
                require(weight not in derive, store.entry(weight), "has two scales", SAVE_AGAIN)
                derive[weight] = partial(
                    derive_scaled, store, weight, stem, suffix, block, is_stated
                )
                parts |= {stem + end for end in (suffix, ".weight", *OTHERS)}
    for suffix in STACK_SCALES:
        for stem in stems(store.names, suffix):
            if stem in store.names and store.entry(stem).dtype in (*EIGHT_BIT_FLOATS, torch.int8):
                derive[stem] = partial(derive_scaled, store, stem, stem, suffix, block, is_stated)
                parts |= {stem, stem + suffix, stem + "_activation_scale"}
    if derive:
        for name in store.names:  # a matrix that lost its scale would be read as other numbers
            if name.endswith(".weight") and name not in derive and name not in parts:
                entry = store.entry(name)
                if entry.dtype in EIGHT_BIT_FLOATS and len(entry.shape) > 1:
                    derive[name] = partial(_refuse_without_scale, store, name)
                    parts.add(name)
    return Plain(derive, frozenset(parts))


def _is_scaled(store: TensorStore, weight: str, suffix: str) -> bool:
    """Whether a matrix's numbers are multiplied by a scale; packed weights are not read here."""
    dtype = store.entry(weight).dtype
    return dtype in EIGHT_BIT_FLOATS if suffix in SCALES[2:] else dtype != torch.uint8


def _refuse_without_scale(store: TensorStore, name: str) -> Derived:
    require(False, store.entry(name), "has no scale, unlike others", SAVE_AGAIN)
    raise AssertionError(name)


def _block_of(shape: Sequence[int], scale: Sequence[int], block: Sequence[int]) -> tuple[int, ...]:
    """The block's size by axis: the stated one where it fits, else the one that divides evenly."""
    found = list(block)
    for axis, size in enumerate(scale if len(scale) == len(shape) > 1 else ()):
        fits = size in (1, shape[axis], -(-shape[axis] // found[axis]))
        if not fits and size > 0 and shape[axis] // size in BLOCKS and shape[axis] % size == 0:
            found[axis] = shape[axis] // size
    return tuple(found)


def derive_scaled(
    store: TensorStore,
    name: str,
    stem: str,
    suffix: str,
    block: Sequence[int],
    is_stated: bool = True,
) -> Derived:
    """A matrix, or a stack of them, times its scale, the tensor `stem + suffix`.

    Without settings (`is_stated`) a program may leave the scale out, so that it must be one
    number, which no term depends on.
    """
    weight, scale = store.entry(name), store.entry(stem + suffix)
    require(
        is_stated or not scale.shape or set(scale.shape) == {1},
        weight,
        "has scales, but no quantization_config says that programs multiply by them",
        "put the model's own config.json beside the weights",
    )
    block = (*(1,) * (len(weight.shape) - len(block)), *block)  # of a stack, each matrix by itself
    block = _block_of(weight.shape, scale.shape, block)
    sources = [name, stem + suffix]
    require_type(weight, (*EIGHT_BIT_FLOATS, torch.int8, *NUMBERS))
    require_type(scale, (*NUMBERS, *POWERS))
    if stem + ".weight_zero_point" in store.names:
        sources.append(stem + ".weight_zero_point")
        require_shape(store.entry(sources[-1]), scale.shape)
    fits = len(weight.shape) >= 2 and len(scale.shape) in (0, 1, len(weight.shape))
    for axis, size in enumerate(scale.shape if fits and len(scale.shape) > 1 else ()):
        wanted = -(-weight.shape[axis] // block[axis - len(scale.shape)])
        fits = fits and size in (1, weight.shape[axis], wanted)
    if len(scale.shape) == 1:
        fits = fits and scale.shape[0] in (1, weight.shape[0])
    require(fits, weight, f"does not fit its scale of shape {list(scale.shape)}")
    single = not scale.shape or set(scale.shape) == {1}
    outputs = scale.shape[:1] == weight.shape[:1] and not single  # one scale per output

    def spread_over(values: Tensor, scale: Tensor) -> Tensor:
        if outputs:  # the same rows of scale and weight were read
            return spread(scale, values.shape, block)
        return spread(scale, weight.shape, block)[..., : len(values), :]

    def combine(parts: list[Tensor]) -> Tensor:
        values = parts[0].float()
        if len(parts) == 3:
            values -= spread_over(values, parts[2].float())
        factors = decode_scales(parts[1])
        if not is_stated and not bool((factors > 0).all()):
            raise ValueError("a scale is not positive")
        return values.mul_(spread_over(values, factors))

    by_rows = (True,) + (outputs,) * (len(sources) - 1)
    return Derived(
        plain_info(name, weight, weight.shape),
        tuple(sources),
        combine,
        by_rows=by_rows if outputs or single else None,
        by_sample=by_rows,
    )
