"""What every conversion of a generator makes, and what each checks on the way."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from huref.decoder.files import Source
from huref.errors import CheckpointError

NOISE_SEED = 0  # of noise inputs that a file does not hold
State = dict[str, Tensor]


@dataclass(frozen=True)
class Converted:
    """A generator in huref's layout.

    Attributes:
        architecture: see `huref.decoder.render.ARCHITECTURES`.
        state: tensors by name, float32; mapping.w_avg is missing where the file has no mean w.
        settings: lr_mul and clamp, which the tensors do not tell.
        licence: what is known of it from the file alone; None for nothing.
        notes: what was not in the file and had to be settled.
    """

    architecture: str
    state: State
    settings: dict[str, Any]
    licence: str | None = None
    notes: list[str] = field(default_factory=list)


def refuse(source: Source, what: str) -> CheckpointError:
    """The error for a variant that the networks here do not render."""
    return CheckpointError(
        f"{source.name}: {what}, which huref cannot render; 'huref decoder import --help' says "
        "what it can"
    )


def require_symmetric(source: Source, state: State) -> None:
    """Check the resampling filters, which convolution and correlation must apply alike.

    Raises:
        CheckpointError: one is not (4, 4), or would have to be turned round.
    """
    for name, kernel in state.items():
        if name.endswith("resample_filter"):
            if kernel.shape != (4, 4):
                raise refuse(source, f"a resampling filter of shape {tuple(kernel.shape)}")
            if not torch.allclose(kernel, kernel.flip(0, 1), atol=1e-6):
                raise refuse(source, "a resampling filter that is not symmetric")


def without_axes(source: Source, name: str, value: Tensor, left: int) -> Tensor:
    """A tensor without its first axes, which have length one, until `left` axes are left.

    Raises:
        CheckpointError: one of them is longer.
    """
    gone = value.shape[: value.dim() - left]
    if value.dim() < left or any(length != 1 for length in gone):
        raise refuse(source, f"a tensor of shape {tuple(value.shape)} for {name}")
    return value.reshape(value.shape[value.dim() - left :])
