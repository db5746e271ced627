"""What every scheme of quantised numbers gives: plain matrices in place of their parts."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from huref.errors import CheckpointError
from huref.loader.tensors import Derived, TensorInfo, TensorStore


@dataclass(frozen=True)
class Plain:
    """The matrices that a scheme recovers, and the stored tensors that they stand for."""

    derive: Mapping[str, Callable[[], Derived]]
    parts: frozenset[str]


# Given a store and the config's `quantization_config`; a scheme that is not the store's finds
# nothing. Raises CheckpointError where tensors and settings contradict it.
Scheme = Callable[[TensorStore, Mapping[str, Any]], Plain]


def stems(names: Iterable[str], suffix: str) -> list[str]:
    """What stands before a suffix, for the names that end in it."""
    return [name.removesuffix(suffix) for name in names if name.endswith(suffix)]


def plain_info(name: str, like: TensorInfo, shape: tuple[int, ...]) -> TensorInfo:
    """A dequantised matrix, float32, in the file of its main part."""
    return TensorInfo(name, like.file, torch.float32, shape)


def require(condition: bool, info: TensorInfo, why: str) -> None:
    """Raise CheckpointError unless the parts of a quantised tensor fit together."""
    if not condition:
        raise CheckpointError(
            f"{info.file}: the quantised tensor '{info.name}' of shape {list(info.shape)} {why}"
        )
