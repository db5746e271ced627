"""rosinality's StyleGAN2 generator, written from its arithmetic, and a training file of it."""

import argparse
import math
from typing import Any

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
