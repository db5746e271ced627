"""The interface of a quantisation scheme, and what the schemes share."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from huref.errors import CheckpointError
from huref.loader.tensors import Derived, TensorInfo, TensorStore

WORDS = (torch.int32, torch.uint32)
INTEGERS = (torch.int32, torch.int64)  # of indices
EIGHT_BIT_FLOATS = (torch.float8_e4m3fn, torch.float8_e5m2)
NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of scales
MOST_SIZES = 100  # of groups, in the settings of one model
POWERS = (torch.uint8, torch.float8_e8m0fnu)  # scales in E8M0


@dataclass(frozen=True)
class Plain:
    """The matrices that a scheme recovers, and the stored tensors that they replace.

    Attributes:
        derive: name of a matrix -> function that says how it is computed.
        parts: names of the stored tensors that encode these matrices.
    """

    derive: Mapping[str, Callable[[], Derived]]
    parts: frozenset[str]


# Takes a store and the model's `quantization_config`. A tensor that is not quantised by the scheme
# is left alone. Raises CheckpointError where tensors or settings contradict the scheme.
Scheme = Callable[[TensorStore, Mapping[str, Any]], Plain]


def stems(names: Iterable[str], suffix: str) -> list[str]:
    """The names that end in a suffix, without the suffix."""
    return [name.removesuffix(suffix) for name in names if name.endswith(suffix)]


def plain_info(name: str, like: TensorInfo, shape: tuple[int, ...]) -> TensorInfo:
    """Describe a dequantised matrix: float32, in the file of the stored tensor `like`."""
    return TensorInfo(name, like.file, torch.float32, shape)


def require(condition: bool, info: TensorInfo, why: str, advice: str | None = None) -> None:
    """Raise CheckpointError about a quantised tensor unless a condition holds.

    Args:
        condition: what must hold.
        info: the tensor.
        why: what is wrong, as a predicate of the tensor ("does not fit its scales").
        advice: what the user should do.
    """
    if not condition:
        raise CheckpointError(
            f"the quantised tensor of shape {list(info.shape)} {why}",
            file=info.file,
            tensor=info.name,
            advice=advice,
        )


def require_one_number(store: TensorStore, name: str) -> None:
    """Raise CheckpointError for a factor of a whole matrix that is more than one number.

    Multiplied with a matrix of one row or column it would make a far larger one.
    """
    factor = store.entry(name)
    require(set(factor.shape) <= {1}, factor, "should be one number")


def require_type(info: TensorInfo, wanted: Collection[torch.dtype]) -> None:
    """Raise CheckpointError for a part of a matrix that has another type than its scheme stores.

    Numbers of another type are read without an error, as other weights.
    """
    named = " or ".join(str(dtype).removeprefix("torch.") for dtype in wanted)
    require(
        info.dtype in wanted,
        info,
        f"has the type {str(info.dtype).removeprefix('torch.')}, not {named}",
    )


def require_shape(info: TensorInfo, *wanted: tuple[int, ...]) -> None:
    """Raise CheckpointError for a part of a matrix that has none of some shapes.

    Without this a part of length 1 would be spread over all.
    """
    named = " or ".join(str(list(shape)) for shape in wanted)
    require(info.shape in wanted, info, f"does not fit the others, which need {named}")


def require_groups(info: TensorInfo, inputs: int, groups: int, sizes: Collection[object]) -> None:
    """Raise CheckpointError for scales that no stated group size explains.

    Args:
        info: the scales.
        inputs: of the matrix.
        groups: of inputs, by the scales' shape.
        sizes: the group sizes of the settings, unchecked; where there is none, groups are equal.
    """
    known = [size for size in sizes if type(size) is int and (size > 0 or size == -1)]
    fits = any(groups == (-(-inputs // size) if size > 0 else 1) for size in known)
    require(
        fits or (not known and groups > 0 and inputs % groups == 0),
        info,
        f"has {groups} groups for {inputs} inputs"
        + (f", but the settings have groups of {known[0]}" if known else ""),
    )


def require_float4(info: TensorInfo, scale: TensorInfo, inputs: int) -> None:
    """Raise CheckpointError unless scales are those of NVFP4 or MXFP4.

    NVFP4 has an e4m3 number for 16 inputs, MXFP4 a power of two for 32.
    """
    require_type(scale, (torch.float8_e4m3fn, *POWERS))
    size = 32 if scale.dtype in POWERS else 16
    require(
        scale.shape == (*info.shape[:-1], inputs // size) and inputs % size == 0,
        info,
        f"does not fit its scales of shape {list(scale.shape)}, one for {size} inputs",
    )


def stated_sizes(settings: Mapping[str, Any]) -> list[object]:
    """The different values of `group_size` in settings, also those of single modules, unchecked.

    Raises:
        CheckpointError: there are more than any model has.
    """
    found: dict[int, None] = {}
    waiting: list[Any] = [settings]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            if type(size := value.get("group_size")) is int:
                found[size] = None
            waiting += value.values()
    if len(found) > MOST_SIZES:
        raise CheckpointError(f"its quantization_config has {len(found)} different group sizes")
    return list(found)


def finite_divisor(scale: Tensor) -> Tensor:
    """A scale that a matrix is divided by, as float32.

    Raises:
        ValueError: it is infinite, so that it would make a matrix of zeros.
    """
    found = scale.float()
    if found.isinf().any():
        raise ValueError("a scale is infinite")
    return found
