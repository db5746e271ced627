"""What other StyleGAN2 code bases call their tensors, turned into the one layout huref renders.

NVIDIA's own names are the layout. rosinality's network has the same arithmetic under other names
and with one constant elsewhere. lucidrains' is another network (`huref.decoder.lucidrains`).
Every conversion gives the same picture as the code that the file was made with, in float32.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from huref.decoder.files import Source
from huref.decoder.lucidrains import fold_linear
from huref.decoder.stylegan2 import LARGEST_SIDE, SQRT2, resample_filter
from huref.errors import CheckpointError

NOISE_SEED = 0
NVIDIA_LICENCE = "NVIDIA Source Code License, non-commercial use only"
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


def convert(source: Source) -> Converted:
    """Recognise a file's dialect by its tensors' names and convert it.

    Raises:
        CheckpointError: none of the known ones, or a variant that cannot be rendered.
    """
    names = source.entries
    dialects: tuple[tuple[str, Callable[[Source], Converted]], ...] = (
        ("synthesis.b4.conv1.weight", _nvidia),
        ("convs.0.conv.weight", _rosinality),
        ("GE.blocks.0.conv1.weight", _lucidrains),
    )
    for telling, dialect in dialects:
        if telling in names:
            return dialect(source)
    if any(re.match(r"synthesis\.(input|L\d+_)", name) for name in names):
        raise CheckpointError(
            f"{source.name}: a StyleGAN3 generator; only StyleGAN2's can be rendered, such as "
            "stylegan2-afhqdog-512x512.pkl from the same page"
        )
    raise CheckpointError(
        f"{source.name}: not a StyleGAN2 generator as NVIDIA, rosinality or lucidrains name its "
        f"tensors; it has, for instance, {', '.join(sorted(names)[:3]) or 'none'}"
    )


def _refuse(source: Source, what: str) -> CheckpointError:
    return CheckpointError(f"{source.name}: {what}, which huref cannot render")


def _setting(source: Source, values: list[Any], what: str) -> float | None:
    """The one positive number that all layers have; None where none has one."""
    for value in values:
        if value is None:
            continue
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise _refuse(source, f"its {what} is no positive number")
    if len(set(values)) > 1:
        raise _refuse(source, f"its layers differ in {what}")
    return float(values[0]) if values and values[0] is not None else None


def _nvidia(source: Source) -> Converted:
    """Take stylegan2-ada-pytorch's and stylegan3's StyleGAN2 as they are, after a look at both."""
    names = source.entries
    if any(name.startswith("mapping.embed.") for name in names):
        raise _refuse(source, "it needs labels (c_dim > 0)")
    if any(".skip." in name for name in names):
        raise _refuse(source, "its architecture is 'resnet'")
    if "synthesis.b4.torgb.weight" not in names:
        raise _refuse(source, "its architecture is 'orig', without colours at every resolution")
    state = source.read(name for name in names if not name.startswith("num_batches"))
    _require_symmetric(source, state)
    layers = {name: module.state for name, module in source.modules.items()}
    for layer in layers.values():
        if layer.get("activation", "lrelu") not in ("lrelu", "linear"):
            raise _refuse(source, "its activation is not the usual 'lrelu'")
        if layer.get("use_noise", True) is not True:
            raise _refuse(source, "it has no noise inputs")
    rates = [m.get("bias_gain") for name, m in layers.items() if name.startswith("mapping.fc")]
    clamps = [m["conv_clamp"] for m in layers.values() if "conv_clamp" in m]
    notes = [] if source.modules else ["lr_mul 0.01 and no clamp are NVIDIA's defaults"]
    lr_mul = _setting(source, rates, "learning rate") or 0.01
    settings = {"lr_mul": lr_mul, "clamp": _setting(source, clamps, "clamping")}
    return Converted("stylegan2", state, settings, NVIDIA_LICENCE, notes)


def _require_symmetric(source: Source, state: State) -> None:
    """Refuse filters of another size, and those that would have to be turned round."""
    for name, kernel in state.items():
        if name.endswith("resample_filter"):
            if kernel.shape != (4, 4):
                raise _refuse(source, f"a resampling filter of shape {tuple(kernel.shape)}")
            if not torch.allclose(kernel, kernel.flip(0, 1), atol=1e-6):
                raise _refuse(source, "a resampling filter that is not symmetric")


def _rosinality(source: Source) -> Converted:
    """Rename; the gain of its convolutions goes into their weights, so that eps counts alike."""
    depth = sum(bool(re.fullmatch(r"style\.\d+\.weight", name)) for name in source.entries)
    count = sum(bool(re.fullmatch(r"convs\.\d+\.conv\.weight", name)) for name in source.entries)
    if count % 2 or not depth or 4 << (count // 2) > LARGEST_SIDE:
        raise _refuse(source, f"{count} convolutions and {depth} mapping layers")
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
    for theirs, (ours, noise) in layers.items():
        target = f"synthesis.{ours}"
        names[f"{theirs}.conv.weight"] = f"{target}.weight"
        for part in ("weight", "bias"):
            names[f"{theirs}.conv.modulation.{part}"] = f"{target}.affine.{part}"
        if noise is None:
            names[f"{theirs}.bias"] = f"{target}.bias"
        else:
            names[f"{theirs}.noise.weight"] = f"{target}.noise_strength"
            names[f"{theirs}.activate.bias"] = f"{target}.bias"
            noises[f"noises.noise_{noise}"] = f"{target}.noise_const"
    others = set(source.entries) - {*names, *kernels, *noises, "latent_avg"}
    if others:
        raise _refuse(source, f"it has a tensor '{min(others)[:100]}'")
    kernels = {theirs: ours for theirs, ours in kernels.items() if theirs in source.entries}
    stored = [name for name in noises if name in source.entries]
    read = source.read([*names, *kernels, *stored])
    state = {ours: read[theirs] for theirs, ours in names.items()}
    state |= {ours: _unit_sum(read[theirs]) for theirs, ours in kernels.items()}
    state |= {noises[theirs]: read[theirs] for theirs in stored}
    _reshape(source, state)
    _require_symmetric(source, state)
    notes = [] if len(stored) == len(noises) else ["noise drawn with seed 0: the file has none"]
    if "latent_avg" in source.entries:
        state["mapping.w_avg"] = source.read(["latent_avg"])["latent_avg"].reshape(-1)
    return Converted("stylegan2", state, {"lr_mul": 0.01, "clamp": None}, None, notes)


def _without_axes(source: Source, name: str, value: Tensor, left: int) -> Tensor:
    """A tensor without its first axes, which have length one, until so many are left."""
    gone = value.shape[: value.dim() - left]
    if value.dim() < left or any(length != 1 for length in gone):
        raise _refuse(source, f"a tensor of shape {tuple(value.shape)} for {name}")
    return value.reshape(value.shape[value.dim() - left :])


def _unit_sum(kernel: Tensor) -> Tensor:
    """Undo the gain of four that rosinality keeps in its up-sampling filters."""
    return kernel / kernel.sum()


def _reshape(source: Source, state: State) -> None:
    """Drop axes of length one, fold gains, and add what rosinality does not store."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    for name in sorted(state):
        value = state[name]
        if name.endswith("noise_const"):
            value = _without_axes(source, name, value, 2)
        elif name.endswith(("conv0.weight", "conv1.weight", "torgb.weight", ".const")):
            value = _without_axes(source, name, value, max(1, value.dim() - 1))
        if name.endswith(("conv0.weight", "conv1.weight")):
            value = value / math.sqrt(math.prod(value.shape[1:]))
        elif name.endswith("noise_strength"):
            value = _without_axes(source, name, value, 0)
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


def _lucidrains(source: Source) -> Converted:
    """Take the averaged mapping SE and generator GE; constants are folded into the weights."""
    for theirs, what in (
        (r"GE\.attns\.\d+\..*", "it has attention layers"),
        (r"GE\.to_initial_block\..*", "its first block is computed from the style (no_const)"),
    ):
        if any(re.fullmatch(theirs, name) for name in source.entries):
            raise _refuse(source, what)
    read = source.read(n for n in source.entries if n.startswith(("SE.", "GE.")))
    if any(read[n].shape[:1] == (4,) for n in read if n.endswith("to_rgb.conv.weight")):
        raise _refuse(source, "its pictures are transparent")
    # Only every other entry of the mapping is a layer; between them are activations.
    depth = sum(bool(re.fullmatch(r"SE\.net\.\d+\.weight", name)) for name in read)
    count = sum(bool(re.fullmatch(r"GE\.blocks\.\d+\.conv1\.weight", name)) for name in read)
    if not 0 < count <= LARGEST_SIDE.bit_length() - 2:
        raise _refuse(source, f"it has {count} resolutions")
    for j in range(count):
        read.pop(f"GE.blocks.{j}.to_rgb.upsample.1.f", None)  # a constant of the code
    state: State = {}

    def fold(ours: str, theirs: str, gain: float, shift: float) -> None:
        weight, bias = (read.pop(f"{theirs}.{part}") for part in ("weight", "bias"))
        if weight.dim() != 2:
            raise _refuse(source, f"a tensor of shape {tuple(weight.shape)} for {theirs}")
        weight, bias = fold_linear(weight, bias, gain)
        state[f"{ours}.weight"], state[f"{ours}.bias"] = weight, bias + shift

    try:
        for i in range(depth):
            # Its layers multiply by 0.1 and lack the gain sqrt 2.
            fold(f"mapping.fc{i}", f"SE.net.{2 * i}", 0.1 / SQRT2, 0.0)
        state["mapping.fc0.weight"] /= math.sqrt(state["mapping.fc0.weight"].shape[1])  # |z| = 1
        const = read.pop("GE.initial_block")
        state["synthesis.const"] = _without_axes(source, "its first block", const, 3)
        for part in ("weight", "bias"):
            state[f"synthesis.input.{part}"] = read.pop(f"GE.initial_conv.{part}")
        for j in range(count):
            theirs, ours = f"GE.blocks.{j}", f"synthesis.b{4 << j}"
            for k in (1, 2):
                layer = f"{ours}.conv{k - 1}"
                state[f"{layer}.weight"] = read.pop(f"{theirs}.conv{k}.weight")
                noise = read.pop(f"{theirs}.to_noise{k}.weight")
                if noise.shape != (noise.numel(), 1):
                    raise _refuse(source, f"a tensor of shape {tuple(noise.shape)} for {layer}")
                state[f"{layer}.noise_scale"] = noise.reshape(-1)
                state[f"{layer}.bias"] = read.pop(f"{theirs}.to_noise{k}.bias")
                fold(f"{layer}.affine", f"{theirs}.to_style{k}", 1.0, 1.0)
            state[f"{ours}.torgb.weight"] = read.pop(f"{theirs}.to_rgb.conv.weight")
            fold(f"{ours}.torgb.affine", f"{theirs}.to_rgb.to_style", 1.0, 1.0)
    except KeyError as error:
        raise CheckpointError(f"{source.name}: the tensor {error} is missing") from error
    if read:
        raise _refuse(source, f"it has a tensor '{min(read)[:100]}'")
    side = 4 << (count - 1)
    generator = torch.Generator().manual_seed(NOISE_SEED)
    state["synthesis.noise"] = torch.rand(side, side, generator=generator)
    notes = ["noise drawn with seed 0: the original draws it anew for every picture"]
    return Converted("stylegan2-pytorch", state, {"lr_mul": 1.0, "clamp": None}, None, notes)
