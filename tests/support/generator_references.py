"""StyleGAN2 as three code bases compute it, written from their arithmetic, and their files.

Nothing of huref's decoder is used. Every convolution, with its resampling, is a sum over kernel
taps of  weight * (L_a X R_b^T)  with small matrices that say where each tap reads from. Tensors
have the names and conventions of the code base in question; everything is float64.
"""

import argparse
import math
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

State = dict[str, Tensor]
TAPS = [0.25, 0.75, 0.75, 0.25]  # the binomial filter, with the gain of two per axis
SIDES = (4, 8, 16)
WIDTHS = {4: 12, 8: 10, 16: 6}
W, Z = 20, 512


def matrix(rows: int, columns: int, entry: Any) -> Tensor:
    return torch.tensor(
        [[entry(n, i) for i in range(columns)] for n in range(rows)], dtype=torch.float64
    )


def tap(k: int) -> float:
    return TAPS[k] if 0 <= k < 4 else 0.0


def shifts(side: int) -> list[Tensor]:
    return [matrix(side, side, lambda n, i, a=a: float(i == n + a - 1)) for a in range(3)]


def transposed(side: int) -> list[Tensor]:
    """A transposed convolution of stride two, then the filter with one zero at each end."""
    return [matrix(2 * side, side, lambda n, i, a=a: tap(2 * i + a - n + 1)) for a in range(3)]


def upsampling(side: int) -> Tensor:
    """Zeros between the samples, two before and one behind, then the filter."""
    return matrix(2 * side, side, lambda n, i: tap(2 * i - n + 2))


def bilinear(side: int) -> Tensor:
    def entry(n: int, i: int) -> float:
        other = min(max(n // 2 + (1 if n % 2 else -1), 0), side - 1)
        return 0.75 * (i == n // 2) + 0.25 * (i == other)

    return matrix(2 * side, side, entry)


def blur(side: int) -> Tensor:
    def entry(n: int, i: int) -> float:
        ends = [abs(n - 1), side - 1 - abs(side - 2 - n)]  # reflected without the border itself
        return 0.5 * (i == n) + sum(0.25 * (i == end) for end in ends)

    return matrix(side, side, entry)


def convolve(weight: Tensor, x: Tensor, taps: list[Tensor]) -> Tensor:
    """Weight (o, i, 3, 3) and x (i, h, h) to (o, ...)."""
    parts = []
    for a, left in enumerate(taps):
        for b, right in enumerate(taps):
            parts.append(torch.einsum("oi,ihw->ohw", weight[:, :, a, b], left @ x @ right.T))
    return torch.stack(parts).sum(0)


def resample(image: Tensor, operator: Tensor) -> Tensor:
    return torch.einsum("nh,chw,mw->cnm", operator, image, operator)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def normalised(z: Tensor) -> Tensor:
    return z / (z.square().mean() + 1e-8).sqrt()


def demodulated(weight: Tensor) -> Tensor:
    return weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape)


# --- NVIDIA -----------------------------------------------------------------------------------


def nvidia_state(seed: int = 0, lr_mul: float = 0.01) -> State:
    torch.manual_seed(seed)
    state: State = {}
    for i in range(3):
        state[f"mapping.fc{i}.weight"] = randn(W, Z if i == 0 else W) / lr_mul
        state[f"mapping.fc{i}.bias"] = 0.2 * randn(W) / lr_mul
    state["mapping.w_avg"] = 0.3 * randn(W)
    kernel = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(kernel, kernel) / 64
    before = 0
    for side in SIDES:
        block, width = f"synthesis.b{side}", WIDTHS[side]
        state[f"{block}.resample_filter"] = kernel.clone()
        if side == 4:
            state[f"{block}.const"] = randn(width, 4, 4)
        for layer in ("conv1",) if side == 4 else ("conv0", "conv1"):
            inputs = before if layer == "conv0" else width
            name = f"{block}.{layer}"
            state[f"{name}.weight"] = randn(width, inputs, 3, 3)
            state[f"{name}.bias"] = 0.3 * randn(width)
            state[f"{name}.noise_const"] = randn(side, side)
            state[f"{name}.noise_strength"] = 0.2 * randn(1)[0]
            state[f"{name}.resample_filter"] = kernel.clone()
            state[f"{name}.affine.weight"] = randn(inputs, W)
            state[f"{name}.affine.bias"] = 1 + 0.2 * randn(inputs)
        state[f"{block}.torgb.weight"] = randn(3, width, 1, 1)
        state[f"{block}.torgb.bias"] = 0.3 * randn(3)
        state[f"{block}.torgb.affine.weight"] = randn(width, W)
        state[f"{block}.torgb.affine.bias"] = 1 + 0.2 * randn(width)
        before = width
    return state


def nvidia_image(
    state: State, z: Tensor, psi: float, cutoff: int | None, clamp: float | None, lr_mul: float
) -> Tensor:
    state = {name: value.double() for name, value in state.items()}
    w = normalised(z.double())
    for i in range(3):
        weight, bias = state[f"mapping.fc{i}.weight"], state[f"mapping.fc{i}.bias"]
        w = math.sqrt(2) * leaky(weight @ w * lr_mul / math.sqrt(len(w)) + lr_mul * bias)
    mean = state["mapping.w_avg"]
    count = 2 * len(SIDES)
    ws = [mean + psi * (w - mean) if cutoff is None or i < cutoff else w for i in range(count)]
    limit = math.inf if clamp is None else clamp

    def style(name: str, w: Tensor) -> Tensor:
        return state[f"{name}.affine.weight"] @ w / math.sqrt(W) + state[f"{name}.affine.bias"]

    def layer(name: str, x: Tensor, w: Tensor, taps: list[Tensor]) -> Tensor:
        weight = demodulated(state[f"{name}.weight"] * style(name, w)[None, :, None, None])
        noise = state[f"{name}.noise_const"] * state[f"{name}.noise_strength"]
        y = convolve(weight, x, taps) + noise + state[f"{name}.bias"][:, None, None]
        return (math.sqrt(2) * leaky(y)).clamp(-limit, limit)

    x, image, used = state["synthesis.b4.const"], torch.zeros(3, 2, 2, dtype=torch.float64), 0
    for side in SIDES:
        block = f"synthesis.b{side}"
        if side > 4:
            x = layer(f"{block}.conv0", x, ws[used], transposed(side // 2))
            used += 1
        x = layer(f"{block}.conv1", x, ws[used], shifts(side))
        used += 1
        name = f"{block}.torgb"
        weight = state[f"{name}.weight"][:, :, 0, 0] * style(name, ws[used]) / math.sqrt(len(x))
        colour = torch.einsum("oi,ihw->ohw", weight, x) + state[f"{name}.bias"][:, None, None]
        image = resample(image, upsampling(side // 2)) + colour.clamp(-limit, limit)
    return image


class EasyDict(dict):  # type: ignore[type-arg]
    """A dict whose items are attributes, as dnnlib.util has it."""

    __module__ = "dnnlib.util"

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Persisted(torch.nn.Module):
    """A module that pickles itself the way torch_utils.persistence does."""

    source = "raise SystemExit('the embedded source was executed')"

    def __init__(self, class_name: str, **attributes: Any) -> None:
        super().__init__()
        self._class_name = class_name
        for name, value in attributes.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {
            "type": "class",
            "version": 6,
            "module_src": self.source,
            "class_name": self._class_name,
            "state": dict(self.__dict__),
        }
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,), None


def install_nvidia_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pickle find the names that NVIDIA's files refer to, in this process only."""
    for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("a module was reconstructed")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence: Any = sys.modules["torch_utils.persistence"]
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj
    util: Any = sys.modules["dnnlib.util"]
    util.EasyDict = EasyDict


def nvidia_network(state: State, clamp: float | None, lr_mul: float, **changes: Any) -> Persisted:
    """Nested modules with the attributes that NVIDIA's have."""
    root = Persisted("Generator", z_dim=Z, c_dim=0, w_dim=W, **changes)
    root._init_kwargs = EasyDict(  # type: ignore[assignment]
        z_dim=Z, synthesis_kwargs=EasyDict(conv_clamp=clamp, num_fp16_res=4)
    )
    for name, value in state.items():
        *path, leaf = name.split(".")
        module: torch.nn.Module = root
        for depth, part in enumerate(path):
            if not hasattr(module, part):
                child = Persisted(part.rstrip("0123456789").title())
                if part.startswith("conv") or part == "torgb":
                    child.conv_clamp, child.activation = clamp, "lrelu"  # type: ignore[assignment]
                if part.startswith("fc"):
                    child.bias_gain, child.activation = lr_mul, "lrelu"  # type: ignore[assignment]
                setattr(module, part, child)
            module = getattr(module, path[depth])
        if leaf in ("w_avg", "resample_filter", "noise_const"):
            module.register_buffer(leaf, value)
        else:
            setattr(module, leaf, torch.nn.Parameter(value))
    return root


def write_nvidia(path: Path, network: Any, protocol: int = 4, **more: Any) -> None:
    import numpy as np

    options = EasyDict(num_gpus=8, total_kimg=np.int64(25000), mirror=True, weight=np.float32(2.5))
    other = Persisted("Discriminator", kept={"a", "b"})
    other.register_buffer("scale", torch.ones(2, 3))
    data = {"G": None, "D": other, "G_ema": network, "training_set_kwargs": options} | more
    path.write_bytes(pickle.dumps(data, protocol))


# --- rosinality -------------------------------------------------------------------------------


def rosinality_state(seed: int = 1) -> State:
    torch.manual_seed(seed)
    state: State = {"input.input": randn(1, WIDTHS[4], 4, 4)}
    for i in range(3):
        state[f"style.{i + 1}.weight"] = randn(W, Z if i == 0 else W) / 0.01
        state[f"style.{i + 1}.bias"] = 0.2 * randn(W) / 0.01
    kernel = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(kernel, kernel) / 16

    def conv(name: str, inputs: int, outputs: int, size: int) -> None:
        state[f"{name}.conv.weight"] = randn(1, outputs, inputs, size, size)
        state[f"{name}.conv.modulation.weight"] = randn(inputs, W)
        state[f"{name}.conv.modulation.bias"] = 1 + 0.2 * randn(inputs)
        if size == 3:
            state[f"{name}.noise.weight"] = 0.2 * randn(1)
            state[f"{name}.activate.bias"] = 0.3 * randn(outputs)
        else:
            state[f"{name}.bias"] = 0.3 * randn(1, 3, 1, 1)

    conv("conv1", WIDTHS[4], WIDTHS[4], 3)
    conv("to_rgb1", WIDTHS[4], 3, 1)
    state["noises.noise_0"] = randn(1, 1, 4, 4)
    before = WIDTHS[4]
    for j, side in enumerate(SIDES[1:]):
        conv(f"convs.{2 * j}", before, WIDTHS[side], 3)
        conv(f"convs.{2 * j + 1}", WIDTHS[side], WIDTHS[side], 3)
        conv(f"to_rgbs.{j}", WIDTHS[side], 3, 1)
        state[f"convs.{2 * j}.conv.blur.kernel"] = kernel.clone()
        state[f"to_rgbs.{j}.upsample.kernel"] = kernel.clone()
        for k in (1, 2):
            state[f"noises.noise_{2 * j + k}"] = randn(1, 1, side, side)
        before = WIDTHS[side]
    return state


def rosinality_image(state: State, mean: Tensor | None, z: Tensor, psi: float) -> Tensor:
    state = {name: value.double() for name, value in state.items()}
    w = normalised(z.double())
    for i in range(1, 4):
        weight, bias = state[f"style.{i}.weight"], state[f"style.{i}.bias"]
        w = math.sqrt(2) * leaky(weight @ w * 0.01 / math.sqrt(len(w)) + 0.01 * bias)
    if mean is not None:
        w = mean.double() + psi * (w - mean.double())

    def modulated(name: str) -> Tensor:
        weight, linear = state[f"{name}.conv.weight"][0], f"{name}.conv.modulation"
        style = state[f"{linear}.weight"] @ w / math.sqrt(W) + state[f"{linear}.bias"]
        return weight * style[None, :, None, None] / math.sqrt(math.prod(weight.shape[1:]))

    def layer(name: str, noise: int, x: Tensor, taps: list[Tensor]) -> Tensor:
        y = convolve(demodulated(modulated(name)), x, taps)
        y = y + state[f"{name}.noise.weight"] * state[f"noises.noise_{noise}"][0, 0]
        return math.sqrt(2) * leaky(y + state[f"{name}.activate.bias"][:, None, None])

    def colours(name: str, x: Tensor) -> Tensor:
        weight = modulated(name)[:, :, 0, 0]
        return torch.einsum("oi,ihw->ohw", weight, x) + state[f"{name}.bias"][0]

    x = layer("conv1", 0, state["input.input"][0], shifts(4))
    image = colours("to_rgb1", x)
    for j, side in enumerate(SIDES[1:]):
        x = layer(f"convs.{2 * j}", 2 * j + 1, x, transposed(side // 2))
        x = layer(f"convs.{2 * j + 1}", 2 * j + 2, x, shifts(side))
        image = resample(image, upsampling(side // 2)) + colours(f"to_rgbs.{j}", x)
    return image


def rosinality_training(state: State) -> dict[str, Any]:
    """Everything that a training file of rosinality's has."""
    other = {name: value + 1 for name, value in state.items()}
    moments = {0: {"step": 3, "exp_avg": torch.zeros(4), "exp_avg_sq": torch.zeros(4)}}
    optimiser = {"state": moments, "param_groups": [{"lr": 0.002, "betas": (0.0, 0.99)}]}
    return {
        "g": other,
        "d": {"convs.0.0.weight": torch.zeros(4, 3, 1, 1)},
        "g_ema": state,
        "g_optim": optimiser,
        "args": argparse.Namespace(path="data", size=16, lr=0.002),
        "ada_aug_p": 0.25,
    }


# --- lucidrains -------------------------------------------------------------------------------


def lucidrains_state(seed: int = 2) -> State:
    torch.manual_seed(seed)
    latent = 512
    state: State = {"GE.initial_block": randn(1, WIDTHS[4], 4, 4)}
    for i in range(3):
        state[f"SE.net.{2 * i}.weight"] = randn(latent, latent)
        state[f"SE.net.{2 * i}.bias"] = randn(latent)
    state["GE.initial_conv.weight"] = 0.2 * randn(WIDTHS[4], WIDTHS[4], 3, 3)
    state["GE.initial_conv.bias"] = 0.2 * randn(WIDTHS[4])
    before = WIDTHS[4]
    for j, side in enumerate(SIDES):
        block, width = f"GE.blocks.{j}", WIDTHS[side]
        for k, inputs in ((1, before), (2, width)):
            state[f"{block}.to_style{k}.weight"] = 0.05 * randn(inputs, latent)
            state[f"{block}.to_style{k}.bias"] = 0.2 * randn(inputs)
            state[f"{block}.to_noise{k}.weight"] = 0.2 * randn(width, 1)
            state[f"{block}.to_noise{k}.bias"] = 0.2 * randn(width)
            state[f"{block}.conv{k}.weight"] = randn(width, inputs, 3, 3)
        state[f"{block}.to_rgb.to_style.weight"] = 0.05 * randn(width, latent)
        state[f"{block}.to_rgb.to_style.bias"] = 0.2 * randn(width)
        state[f"{block}.to_rgb.conv.weight"] = 0.3 * randn(3, width, 1, 1)
        if side != SIDES[-1]:
            state[f"{block}.to_rgb.upsample.1.f"] = torch.tensor([1.0, 2.0, 1.0])
        before = width
    others = {f"{name[0]}{name[2:]}": value + 1 for name, value in state.items()}
    return state | others | {"D.blocks.0.conv_res.weight": torch.zeros(4, 3, 1, 1)}


def lucidrains_image(state: State, noise: Tensor, z: Tensor, mean: Tensor, psi: float) -> Tensor:
    """`noise` (side, side) is the field that the original would draw; colours are in [0, 1]."""
    state = {name: value.double() for name, value in state.items()}
    w = z.double() / z.double().norm()
    for i in range(3):
        w = leaky(0.1 * (state[f"SE.net.{2 * i}.weight"] @ w + state[f"SE.net.{2 * i}.bias"]))
    w = psi * (w - mean.double()) + mean.double()

    def modulated(name: str, conv: str) -> Tensor:
        style: Tensor = state[f"{name}.weight"] @ w + state[f"{name}.bias"]
        return state[f"{conv}.weight"] * (style + 1)[None, :, None, None]

    x = convolve(state["GE.initial_conv.weight"], state["GE.initial_block"][0], shifts(4))
    x = x + state["GE.initial_conv.bias"][:, None, None]
    image = torch.zeros(3, 4, 4, dtype=torch.float64)
    for j, side in enumerate(SIDES):
        block = f"GE.blocks.{j}"
        if j:
            x = resample(x, bilinear(side // 2))
        for k in (1, 2):
            scale, bias = (state[f"{block}.to_noise{k}.{part}"] for part in ("weight", "bias"))
            field = noise.double()[:side, :side, None] * scale[:, 0] + bias  # (h, w, c)
            weight = demodulated(modulated(f"{block}.to_style{k}", f"{block}.conv{k}"))
            x = leaky(convolve(weight, x, shifts(side)) + field.permute(2, 1, 0))
        weight = modulated(f"{block}.to_rgb.to_style", f"{block}.to_rgb.conv")[:, :, 0, 0]
        image = image + torch.einsum("oi,ihw->ohw", weight, x)
        if side != SIDES[-1]:
            image = resample(resample(image, bilinear(side)), blur(2 * side))
    return image
