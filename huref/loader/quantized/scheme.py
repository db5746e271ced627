"""The interface of a quantisation scheme, and what the schemes share."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from huref.errors import CheckpointError
from huref.loader.tensors import Derived, TensorInfo, TensorStore


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
