"""NVIDIA's StyleGAN2 generator, written from its arithmetic, and NVIDIA's pickles.

Tensors have the names and conventions of stylegan2-ada-pytorch.
"""

import math
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.generator_arithmetic import (
    SIDES,
    WIDTHS,
    State,
    W,
    Z,
    convolve,
    demodulated,
    leaky,
    normalised,
    randn,
    resample,
    shifts,
    transposed,
    upsampling,
)


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
    """A module that is pickled as by torch_utils.persistence."""

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
