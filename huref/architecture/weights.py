"""Tensors of a checkpoint as float32, checked, by the roles that a layout gives them."""

import torch
from torch import Tensor

from huref.architecture.layout import tensor_fields
from huref.errors import WeightsError
from huref.loader.checkpoint import Checkpoint


def finite(checkpoint: Checkpoint, name: str, tensor: Tensor) -> Tensor:
    """A tensor in float32.

    Raises:
        WeightsError: it holds NaN or infinite values, or integers that nothing scales.
    """
    if not tensor.dtype.is_floating_point:
        raise WeightsError(
            f"{checkpoint.entry(name).file}: tensor '{name}' holds integers, as quantised weights "
            "do, but no scales were found beside it; save it again with its quantisation config"
        )
    values = tensor.float()
    if not torch.isfinite(values).all():
        file = checkpoint.entry(name).file
        raise WeightsError(
            f"{file}: tensor '{name}' holds NaN or infinite values; download the file again, or "
            "convert it again from weights that are whole"
        )
    return values


def read_tensors(checkpoint: Checkpoint, names: dict[str, str]) -> dict[str, Tensor]:
    """Tensors by role, float32 in their stored shapes, from their names by role.

    Raises:
        CheckpointError: one is missing.
        WeightsError: one holds NaN or infinite values, or integers.
    """
    raw = checkpoint.read(names.values())
    return {role: finite(checkpoint, name, raw[name]) for role, name in names.items()}


def read_part(checkpoint: Checkpoint, part: object) -> dict[str, Tensor]:
    """The tensors that a resolved part of a layout names, by role, float32 in stored shapes.

    A role of several is stacked along a new first axis; of an adapter's two, (rank, in) and
    (out, rank), it is the product (out, in).

    Raises:
        CheckpointError: one is missing.
        WeightsError: one holds NaN or infinite values, or integers.
    """
    pairs = {role: names for role, names in tensor_fields(part).items() if names}
    raw = checkpoint.read(name for names in pairs.values() for name in names)
    tensors = {}
    for role, names in pairs.items():
        parts = [finite(checkpoint, name, raw[name]) for name in names]
        if role.endswith("_adapter"):  # stored (rank, in) and (out, rank)
            tensors[role] = parts[1] @ parts[0]
        else:
            tensors[role] = parts[0] if len(parts) == 1 else torch.stack(parts)
    return tensors
