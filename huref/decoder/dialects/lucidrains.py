"""lucidrains' generators: another network (`huref.decoder.lucidrains`), constants folded in."""

import math
import re

import torch

from huref.decoder.dialects.converted import (
    NOISE_SEED,
    Converted,
    State,
    refuse,
    without_axes,
)
from huref.decoder.files import Source
from huref.decoder.lucidrains import fold_linear
from huref.decoder.stylegan2 import LARGEST_SIDE, SQRT2
from huref.errors import CheckpointError


def convert_lucidrains(source: Source) -> Converted:
    """Take the averaged mapping SE and generator GE; constants are folded into the weights.

    Raises:
        CheckpointError: a tensor is missing, or a variant that cannot be rendered.
    """
    for theirs, what in (
        (r"GE\.attns\.\d+\..*", "it has attention layers"),
        (r"GE\.to_initial_block\..*", "its first block is computed from the style (no_const)"),
    ):
        if any(re.fullmatch(theirs, name) for name in source.entries):
            raise refuse(source, what)
    read = source.read(n for n in source.entries if n.startswith(("SE.", "GE.")))
    if any(read[n].shape[:1] == (4,) for n in read if n.endswith("to_rgb.conv.weight")):
        raise refuse(source, "its pictures are transparent")
    # Only every other entry of the mapping is a layer; between them are activations.
    depth = sum(bool(re.fullmatch(r"SE\.net\.\d+\.weight", name)) for name in read)
    count = sum(bool(re.fullmatch(r"GE\.blocks\.\d+\.conv1\.weight", name)) for name in read)
    if not 0 < count <= LARGEST_SIDE.bit_length() - 2:
        raise refuse(source, f"it has {count} resolutions")
    for j in range(count):
        read.pop(f"GE.blocks.{j}.to_rgb.upsample.1.f", None)  # a constant of the code
    state: State = {}

    def fold(ours: str, theirs: str, gain: float, shift: float) -> None:
        weight, bias = (read.pop(f"{theirs}.{part}") for part in ("weight", "bias"))
        if weight.dim() != 2:
            raise refuse(source, f"a tensor of shape {tuple(weight.shape)} for {theirs}")
        weight, bias = fold_linear(weight, bias, gain)
        state[f"{ours}.weight"], state[f"{ours}.bias"] = weight, bias + shift

    try:
        for i in range(depth):
            # Its layers multiply by 0.1 and lack the gain sqrt 2.
            fold(f"mapping.fc{i}", f"SE.net.{2 * i}", 0.1 / SQRT2, 0.0)
        state["mapping.fc0.weight"] /= math.sqrt(state["mapping.fc0.weight"].shape[1])  # |z| = 1
        const = read.pop("GE.initial_block")
        state["synthesis.const"] = without_axes(source, "its first block", const, 3)
        for part in ("weight", "bias"):
            state[f"synthesis.input.{part}"] = read.pop(f"GE.initial_conv.{part}")
        for j in range(count):
            theirs, ours = f"GE.blocks.{j}", f"synthesis.b{4 << j}"
            for k in (1, 2):
                layer = f"{ours}.conv{k - 1}"
                state[f"{layer}.weight"] = read.pop(f"{theirs}.conv{k}.weight")
                noise = read.pop(f"{theirs}.to_noise{k}.weight")
                if noise.shape != (noise.numel(), 1):
                    raise refuse(source, f"a tensor of shape {tuple(noise.shape)} for {layer}")
                state[f"{layer}.noise_scale"] = noise.reshape(-1)
                state[f"{layer}.bias"] = read.pop(f"{theirs}.to_noise{k}.bias")
                fold(f"{layer}.affine", f"{theirs}.to_style{k}", 1.0, 1.0)
            state[f"{ours}.torgb.weight"] = read.pop(f"{theirs}.to_rgb.conv.weight")
            fold(f"{ours}.torgb.affine", f"{theirs}.to_rgb.to_style", 1.0, 1.0)
    except KeyError as error:
        raise CheckpointError(f"{source.name}: the tensor {error} is missing") from error
    if read:
        raise refuse(source, f"it has a tensor '{min(read)[:100]}'")
    side = 4 << (count - 1)
    generator = torch.Generator().manual_seed(NOISE_SEED)
    state["synthesis.noise"] = torch.rand(side, side, generator=generator)
    notes = ["noise drawn with seed 0: the original draws it anew for every picture"]
    return Converted("stylegan2-pytorch", state, {"lr_mul": 1.0, "clamp": None}, None, notes)
