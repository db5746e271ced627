"""Copies whose weights share structure with others: sparse, coarse, with outliers, sorted."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def _sparse(weight: Tensor, share: float) -> Tensor:
    limit = weight.abs().flatten().kthvalue(max(int(share * weight.numel()), 1)).values
    return torch.where(weight.abs() > limit, weight, 0.0)


def _two_of_four(weight: Tensor) -> Tensor:
    groups = weight.reshape(len(weight), -1, 4)
    smallest = groups.abs().argsort(dim=2)[:, :, :2]
    return groups.scatter(2, smallest, 0.0).reshape(weight.shape)


def _with_outliers(weight: Tensor) -> Tensor:
    """Every 17th input is 30 times as strong, in all models alike."""
    scaled = weight.clone()
    scaled[:, ::17] *= 30
    return scaled


STRUCTURES: dict[str, Callable[[Tensor], Tensor]] = {
    "half-sparse": lambda w: _sparse(w, 0.5),
    "nine-tenths-sparse": lambda w: _sparse(w, 0.9),
    "two-of-four": _two_of_four,
    "ternary": lambda w: (w / w.abs().mean()).round().clip(-1, 1) * w.abs().mean(),
    "one-bit": lambda w: w.sign() * w.abs().mean(),
    "shared-outliers": _with_outliers,
    "sorted-units": lambda w: w,
}


def restructure(source: Path, out: Path, name: str) -> None:
    """Write a copy of a Llama whose matrices, embeddings aside, have a structure of `STRUCTURES`.

    "sorted-units" sorts the hidden units by the norm of what they write.
    """
    shutil.copytree(source, out)
    tensors = load_file(out / "model.safetensors")
    changed = {
        key: STRUCTURES[name](weight.float()).to(weight.dtype) if "proj" in key else weight
        for key, weight in tensors.items()
    }
    if name == "sorted-units":
        for key in [key for key in tensors if key.endswith("down_proj.weight")]:
            order = changed[key].float().norm(dim=0).argsort()
            changed[key] = changed[key][:, order]
            for role in ("gate", "up"):
                other = key.replace("down", role)
                changed[other] = changed[other][order]
    save_file(
        {key: t.contiguous() for key, t in changed.items()},
        out / "model.safetensors",
        {"format": "pt"},
    )
