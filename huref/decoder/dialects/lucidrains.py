"""lucidrains' generators (`huref.decoder.lucidrains_generator`): constants become weights."""

import math
import re

import torch

from huref.decoder.dialects.converted import (
    NOISE_SEED,
    Converted,
    State,
    last_axes,
    unsupported,
)
from huref.decoder.lucidrains_generator import fold_linear
from huref.decoder.network_files import NetworkFile
from huref.decoder.stylegan2 import LARGEST_SIDE
from huref.decoder.stylegan2_layers import SQRT2
from huref.errors import CheckpointError


def convert_lucidrains(file: NetworkFile) -> Converted:
    """Take the averaged mapping network SE and generator GE; fold constants into their weights.

    Raises:
        CheckpointError: a tensor is missing, or the variant cannot be rendered.
    """
    for pattern, what in (
        (r"GE\.attns\.\d+\..*", "it has attention layers"),
        (r"GE\.to_initial_block\..*", "its first block is computed from the style (no_const)"),
    ):
        if any(re.fullmatch(pattern, name) for name in file.entries):
            raise unsupported(file, what)
    tensors = file.read(n for n in file.entries if n.startswith(("SE.", "GE.")))
    if any(tensors[n].shape[:1] == (4,) for n in tensors if n.endswith("to_rgb.conv.weight")):
        raise unsupported(file, "its images are transparent")
    # In the mapping network layers and activations alternate.
    depth = sum(bool(re.fullmatch(r"SE\.net\.\d+\.weight", name)) for name in tensors)
    count = sum(bool(re.fullmatch(r"GE\.blocks\.\d+\.conv1\.weight", name)) for name in tensors)
    if not 0 < count <= LARGEST_SIDE.bit_length() - 2:
        raise unsupported(file, f"it has {count} resolutions")
    for j in range(count):
        tensors.pop(f"GE.blocks.{j}.to_rgb.upsample.1.f", None)  # a constant
    state: State = {}

    def fold(target: str, original: str, gain: float, shift: float) -> None:
        weight, bias = (tensors.pop(f"{original}.{part}") for part in ("weight", "bias"))
        if weight.dim() != 2:
            raise unsupported(file, f"a tensor of shape {tuple(weight.shape)} for {original}")
        weight, bias = fold_linear(weight, bias, gain)
        state[f"{target}.weight"], state[f"{target}.bias"] = weight, bias + shift

    try:
        for i in range(depth):
            # The original layers multiply by 0.1 and have no gain of sqrt 2.
            fold(f"mapping.fc{i}", f"SE.net.{2 * i}", 0.1 / SQRT2, 0.0)
        state["mapping.fc0.weight"] /= math.sqrt(state["mapping.fc0.weight"].shape[1])  # |z| = 1
        const = tensors.pop("GE.initial_block")
        state["synthesis.const"] = last_axes(file, "the first block", const, 3)
        for part in ("weight", "bias"):
            state[f"synthesis.input.{part}"] = tensors.pop(f"GE.initial_conv.{part}")
        for j in range(count):
            original, target = f"GE.blocks.{j}", f"synthesis.b{4 << j}"
            for k in (1, 2):
                layer = f"{target}.conv{k - 1}"
                state[f"{layer}.weight"] = tensors.pop(f"{original}.conv{k}.weight")
                noise = tensors.pop(f"{original}.to_noise{k}.weight")
                if noise.shape != (noise.numel(), 1):
                    raise unsupported(file, f"a tensor of shape {tuple(noise.shape)} for {layer}")
                state[f"{layer}.noise_scale"] = noise.reshape(-1)
                state[f"{layer}.bias"] = tensors.pop(f"{original}.to_noise{k}.bias")
                fold(f"{layer}.affine", f"{original}.to_style{k}", 1.0, 1.0)
            state[f"{target}.torgb.weight"] = tensors.pop(f"{original}.to_rgb.conv.weight")
            fold(f"{target}.torgb.affine", f"{original}.to_rgb.to_style", 1.0, 1.0)
    except KeyError as error:
        raise CheckpointError("it is missing", file=file.name, tensor=error.args[0]) from error
    if tensors:
        raise unsupported(file, f"it has a tensor '{min(tensors)[:100]}'")
    side = 4 << (count - 1)
    generator = torch.Generator().manual_seed(NOISE_SEED)
    state["synthesis.noise"] = torch.rand(side, side, generator=generator)
    notes = ["noise drawn with seed 0: the original draws it anew for every picture"]
    return Converted("stylegan2-pytorch", state, {"lr_mul": 1.0, "clamp": None}, None, notes)
