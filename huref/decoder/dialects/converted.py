"""The result of converting a generator, and checks that several conversions share."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from huref.decoder.network_files import NetworkFile
from huref.errors import CheckpointError

NOISE_SEED = 0  # for noise inputs that are not in the file
State = dict[str, Tensor]


@dataclass(frozen=True)
class Converted:
    """A generator with huref's tensor names.

    Attributes:
        architecture: see `huref.decoder.render.ARCHITECTURES`.
        state: tensors by name, float32; without mapping.w_avg if the file has no mean w.
        settings: lr_mul and clamp, which cannot be read from the tensors.
        licence: the licence as far as the file implies it, or None.
        notes: values that are not in the file, and what was taken instead. Notes and licence enter
            the decoder's digest, so their wording does not change.
    """

    architecture: str
    state: State
    settings: dict[str, Any]
    licence: str | None = None
    notes: list[str] = field(default_factory=list)


def unsupported(file: NetworkFile, what: str) -> CheckpointError:
    """The error for a variant that cannot be rendered."""
    return CheckpointError(
        f"{what}, which huref cannot render",
        file=file.name,
        advice="'huref decoder import --help' lists what it can",
    )


def require_symmetric(file: NetworkFile, state: State) -> None:
    """Check the resampling filters, for which convolution must equal correlation.

    Raises:
        CheckpointError: a filter is not (4, 4) or not symmetric.
    """
    for name, kernel in state.items():
        if name.endswith("resample_filter"):
            if kernel.shape != (4, 4):
                raise unsupported(file, f"a resampling filter of shape {tuple(kernel.shape)}")
            if not torch.allclose(kernel, kernel.flip(0, 1), atol=1e-6):
                raise unsupported(file, "a resampling filter that is not symmetric")


def last_axes(file: NetworkFile, name: str, value: Tensor, count: int) -> Tensor:
    """A tensor reshaped to its last `count` axes; the axes before them must have length 1.

    Raises:
        CheckpointError: one of them is longer, or there are fewer than `count` axes.
    """
    dropped = value.shape[: value.dim() - count]
    if value.dim() < count or any(length != 1 for length in dropped):
        raise unsupported(file, f"a tensor of shape {tuple(value.shape)} for {name}")
    return value.reshape(value.shape[value.dim() - count :])
