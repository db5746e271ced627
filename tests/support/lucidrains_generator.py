"""The generator of lucidrains' stylegan2-pytorch, written from its arithmetic."""

import torch
from torch import Tensor

from tests.support.generator_arithmetic import (
    SIDES,
    WIDTHS,
    State,
    bilinear,
    blur,
    convolve,
    demodulated,
    leaky,
    randn,
    resample,
    shifts,
)


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
    """The image with colours in [0, 1]; the original would draw `noise` (side, side)."""
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
