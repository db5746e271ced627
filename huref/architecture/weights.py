"""Tensors of a checkpoint by role, as float32, checked for values that are not numbers."""

import math
from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from huref.architecture.resolved import Roles, Stored
from huref.errors import WeightsError
from huref.loader.checkpoint import Checkpoint

PORTION = 2**28  # numbers that are read at once


def is_finite(values: Tensor) -> bool:
    """Whether all values are numbers. The extremes tell: a mask of the tensor's size costs more."""
    return not values.numel() or all(math.isfinite(end) for end in torch.aminmax(values))


def finite(checkpoint: Checkpoint, name: str, tensor: Tensor) -> Tensor:
    """A tensor in float32.

    Raises:
        WeightsError: it holds NaN or infinite values, or integers without scales.
    """
    if not tensor.dtype.is_floating_point:
        raise WeightsError(
            "it holds integers, as quantised weights do, but there are no scales for them",
            file=checkpoint.entry(name).file,
            tensor=name,
            advice="save the model again with its quantisation config",
        )
    values = tensor.float()
    if not is_finite(values):
        raise WeightsError(
            "it holds NaN or infinite values",
            file=checkpoint.entry(name).file,
            tensor=name,
            advice="download the file again, or convert it again from intact weights",
        )
    return values


def read_tensors(checkpoint: Checkpoint, names: dict[str, str]) -> dict[str, Tensor]:
    """Tensors by role, float32 in their stored shapes, from their names by role.

    Raises:
        CheckpointError: a tensor is missing.
        WeightsError: a tensor holds NaN or infinite values, or integers.
    """
    raw = checkpoint.read(names.values())
    return {role: finite(checkpoint, name, raw[name]) for role, name in names.items()}


def read_roles(checkpoint: Checkpoint, roles: Roles) -> dict[str, Tensor]:
    """The tensors of a resolved part by role, float32 in their stored shapes.

    Several tensors of one role are stacked along a new first axis. The two of an adapter, (rank,
    in) and (out, rank), are multiplied: (out, in).

    Raises:
        CheckpointError: a tensor is missing.
        WeightsError: a tensor holds NaN or infinite values, or integers.
    """
    tensors = {}
    for portion in _portions(checkpoint, roles):
        raw = checkpoint.read(name for stored in portion.values() for name in stored.names)
        for role, stored in portion.items():
            parts = [finite(checkpoint, name, raw[name]) for name in stored.names]
            if role.endswith("_adapter"):  # stored (rank, in) and (out, rank)
                tensors[role] = parts[1] @ parts[0]
            else:
                tensors[role] = parts[0] if len(parts) == 1 else torch.stack(parts)
    return tensors


def _portions(checkpoint: Checkpoint, roles: Roles) -> Iterator[dict[str, Stored]]:
    """The roles in portions that are read at once: each of PORTION numbers, or of one role."""
    portion: dict[str, Stored] = {}
    size = 0
    for role, stored in roles.items():
        numbers = sum(math.prod(checkpoint.entry(name).shape) for name in stored.names)
        if portion and size + numbers > PORTION:
            yield portion
            portion, size = {}, 0
        portion[role] = stored
        size += numbers
    if portion:
        yield portion


def read_biases(checkpoint: Checkpoint, roles: Roles, known: Collection[str]) -> dict[str, Tensor]:
    """The biases (out) beside the matrices or gains of some roles, float32, where there are any.

    A bias has the name of its weight with `.bias` in place of `.weight`, and is among the `known`.
    """
    names = {
        role: stored.name.removesuffix("weight") + "bias"
        for role, stored in roles.items()
        if len(stored.names) == 1 and stored.name.endswith(".weight")
    }
    return read_tensors(checkpoint, {r: n for r, n in names.items() if n in known})
