"""rosinality's generators: NVIDIA's arithmetic, other names, one gain in another place."""

import math
import re

import torch
from torch import Tensor

from huref.decoder.dialects.converted import (
    NOISE_SEED,
    Converted,
    State,
    last_axes,
    require_symmetric,
    unsupported,
)
from huref.decoder.network_files import NetworkFile
from huref.decoder.stylegan2 import LARGEST_SIDE
from huref.decoder.stylegan2_layers import resample_filter


def convert_rosinality(file: NetworkFile) -> Converted:
    """Rename tensors; fold the convolutions' gain into their weights, where eps has equal effect.

    Raises:
        CheckpointError: the variant is one that `huref.decoder.stylegan2` does not render.
    """
    depth = sum(bool(re.fullmatch(r"style\.\d+\.weight", name)) for name in file.entries)
    count = sum(bool(re.fullmatch(r"convs\.\d+\.conv\.weight", name)) for name in file.entries)
    if count % 2 or not depth or 4 << (count // 2) > LARGEST_SIDE:
        raise unsupported(file, f"{count} convolutions and {depth} mapping layers")
    names: dict[str, str] = {"input.input": "synthesis.b4.const"}
    kernels = {}
    for i in range(depth):
        for part in ("weight", "bias"):
            names[f"style.{i + 1}.{part}"] = f"mapping.fc{i}.{part}"
    layers = {"conv1": ("b4.conv1", 0), "to_rgb1": ("b4.torgb", None)}
    for j in range(count // 2):
        block = f"b{8 << j}"
        layers[f"convs.{2 * j}"] = (f"{block}.conv0", 1 + 2 * j)
        layers[f"convs.{2 * j + 1}"] = (f"{block}.conv1", 2 + 2 * j)
        layers[f"to_rgbs.{j}"] = (f"{block}.torgb", None)
        kernels[f"convs.{2 * j}.conv.blur.kernel"] = f"synthesis.{block}.conv0.resample_filter"
        kernels[f"to_rgbs.{j}.upsample.kernel"] = f"synthesis.{block}.resample_filter"
    noises = {}
    for original, (layer, noise) in layers.items():
        target = f"synthesis.{layer}"
        names[f"{original}.conv.weight"] = f"{target}.weight"
        for part in ("weight", "bias"):
            names[f"{original}.conv.modulation.{part}"] = f"{target}.affine.{part}"
        if noise is None:
            names[f"{original}.bias"] = f"{target}.bias"
        else:
            names[f"{original}.noise.weight"] = f"{target}.noise_strength"
            names[f"{original}.activate.bias"] = f"{target}.bias"
            noises[f"noises.noise_{noise}"] = f"{target}.noise_const"
    others = set(file.entries) - {*names, *kernels, *noises, "latent_avg"}
    if others:
        raise unsupported(file, f"it has a tensor '{min(others)[:100]}'")
    kernels = {name: target for name, target in kernels.items() if name in file.entries}
    stored = [name for name in noises if name in file.entries]
    tensors = file.read([*names, *kernels, *stored])
    state = {target: tensors[name] for name, target in names.items()}
    state |= {target: _unit_sum(tensors[name]) for name, target in kernels.items()}
    state |= {noises[name]: tensors[name] for name in stored}
    _reshape(file, state)
    require_symmetric(file, state)
    notes = [] if len(stored) == len(noises) else ["noise drawn with seed 0: the file has none"]
    if "latent_avg" in file.entries:
        state["mapping.w_avg"] = file.read(["latent_avg"])["latent_avg"].reshape(-1)
    return Converted("stylegan2", state, {"lr_mul": 0.01, "clamp": None}, None, notes)


def _unit_sum(kernel: Tensor) -> Tensor:
    """Remove the gain of four that rosinality stores in its up-sampling filters."""
    return kernel / kernel.sum()


def _reshape(file: NetworkFile, state: State) -> None:
    """Drop axes of length one, fold gains, and add the buffers that the file lacks."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    for name in sorted(state):
        value = state[name]
        if name.endswith("noise_const"):
            value = last_axes(file, name, value, 2)
        elif name.endswith(("conv0.weight", "conv1.weight", "torgb.weight", ".const")):
            value = last_axes(file, name, value, max(1, value.dim() - 1))
        if name.endswith(("conv0.weight", "conv1.weight")):
            value = value / math.sqrt(math.prod(value.shape[1:]))
        elif name.endswith("noise_strength"):
            value = last_axes(file, name, value, 0)
        elif name.endswith("torgb.bias"):
            value = value.reshape(-1)
        state[name] = value
    for name in [n for n in state if n.endswith("noise_strength")]:
        layer = name.removesuffix(".noise_strength")
        state.setdefault(f"{layer}.resample_filter", resample_filter())
        resolution = int(layer.split(".")[1][1:])
        if f"{layer}.noise_const" not in state:
            noise = torch.randn(resolution, resolution, generator=generator)
            state[f"{layer}.noise_const"] = noise
        state.setdefault(f"{layer.rpartition('.')[0]}.resample_filter", resample_filter())
