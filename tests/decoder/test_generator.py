"""The generator's arithmetic against its formulas, written out independently."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from huref.decoder.stylegan2 import Generator
from huref.decoder.stylegan2_layers import (
    SQRT2,
    StyledConv,
    ToRGB,
    resample_filter,
    upsample_image,
)
from huref.errors import CheckpointDigestError
from tests.support.small_generator import small_generator


def zero_insert_and_filter(x: torch.Tensor, up: int = 2) -> torch.Tensor:
    """Up-sample by the definition: zeros between samples, then the binomial filter."""
    n, c, h, w = x.shape
    wide = torch.zeros(n, c, up * h + 3, up * w + 3, dtype=x.dtype)
    wide[:, :, 2 : 2 + up * h : up, 2 : 2 + up * w : up] = x
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 8 * up
    out = torch.zeros(n, c, up * h, up * w, dtype=x.dtype)
    for i in range(4):
        for j in range(4):
            out += taps[i] * taps[j] * wide[:, :, i : i + up * h, j : j + up * w]
    return out


def test_upsampled_image_matches_zero_insertion_and_fir() -> None:
    image = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    kernel = resample_filter().double()
    assert torch.allclose(upsample_image(image, kernel), zero_insert_and_filter(image), atol=1e-12)


@pytest.mark.parametrize("up", [False, True])
def test_styled_conv_matches_a_weight_of_its_own_per_sample(up: bool) -> None:
    torch.manual_seed(1)
    layer = StyledConv(5, 7, 6, 16 if up else 8, up=up).double()
    with torch.no_grad():
        layer.bias.normal_()
        layer.noise_strength.fill_(0.4)
    x = torch.randn(3, 5, 8, 8, dtype=torch.float64)
    w = torch.randn(3, 6, dtype=torch.float64)
    expected = []
    for sample, code in zip(x, w, strict=True):
        style = code @ layer.affine.weight.T / math.sqrt(6) + layer.affine.bias
        weight = layer.weight * style[None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        y = torch.zeros(7, *layer.noise_const.shape, dtype=torch.float64)
        if up:
            # Every input pixel adds the kernel to a grid of twice the resolution; then the filter.
            grid = torch.zeros(1, 7, 19, 19, dtype=torch.float64)
            for i in range(8):
                for j in range(8):
                    stamp = torch.einsum("oiab,i->oab", weight, sample[:, i, j])
                    grid[0, :, 2 * i + 1 : 2 * i + 4, 2 * j + 1 : 2 * j + 4] += stamp
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 4
            for i in range(4):
                for j in range(4):
                    y += taps[i] * taps[j] * grid[0, :, i : i + 16, j : j + 16]
        else:
            padded = torch.nn.functional.pad(sample, (1, 1, 1, 1))
            for i in range(3):
                for j in range(3):
                    patch = padded[:, i : i + 8, j : j + 8]
                    y += torch.einsum("oi,ihw->ohw", weight[:, :, i, j], patch)
        y = y + 0.4 * layer.noise_const + layer.bias[:, None, None]
        y = torch.where(y > 0, y, 0.2 * y) * SQRT2
        expected.append(y.clamp(-2.0, 2.0))
    assert torch.allclose(layer(x, w, 2.0), torch.stack(expected), atol=1e-10)


def test_torgb_is_modulated_but_not_normalised() -> None:
    torch.manual_seed(2)
    layer = ToRGB(5, 6)
    x, w = torch.randn(2, 5, 4, 4), torch.randn(2, 6)
    style = (w @ layer.affine.weight.T / math.sqrt(6) + layer.affine.bias) / math.sqrt(5)
    expected = torch.einsum("oi,ni,nihw->nohw", layer.weight[:, :, 0, 0], style, x)
    assert torch.allclose(layer(x, w, None), expected, atol=1e-5)


def test_mapping_follows_the_published_arithmetic() -> None:
    mapping = small_generator().mapping
    z = 3.0 * torch.randn(4, 24)
    x = z / z.square().mean(1, keepdim=True).sqrt()
    for i in range(2):
        layer: Any = mapping.get_submodule(f"fc{i}")
        x = x @ (layer.weight * 0.5 / math.sqrt(layer.weight.shape[1])).T + 0.5 * layer.bias
        x = torch.where(x > 0, x, 0.2 * x) * SQRT2
    assert torch.allclose(mapping(z), x, atol=1e-5)


def test_truncation_reaches_only_the_first_layers() -> None:
    generator = small_generator()
    w, mean = torch.randn(2, 16), generator.mapping.w_avg
    ws = generator.truncate(w, 0.5, 2)
    assert len(ws) == generator.synthesis.num_ws == 6
    assert torch.allclose(ws[1], mean + 0.5 * (w - mean))
    assert torch.equal(ws[2], w)
    assert all(torch.equal(a, ws[0]) for a in generator.truncate(w, 0.5, None))


def test_each_layer_takes_its_own_w() -> None:
    """A block's torgb shares its w with the next block's conv0."""
    generator = small_generator()
    ws = list(torch.randn(6, 2, 16))
    blocks: dict[int, Any] = {r: generator.synthesis.get_submodule(f"b{r}") for r in (4, 8, 16)}
    x = generator.get_parameter("synthesis.b4.const").expand(2, -1, -1, -1)
    x = blocks[4].conv1(x, ws[0], 256.0)
    image = blocks[4].torgb(x, ws[1], 256.0)
    for resolution, first in ((8, 1), (16, 3)):
        block = blocks[resolution]
        x = block.conv1(block.conv0(x, ws[first], 256.0), ws[first + 1], 256.0)
        colour = block.torgb(x, ws[first + 2], 256.0)
        image = zero_insert_and_filter(image) + colour
    assert torch.allclose(generator.synthesis(ws), image, atol=1e-4)


def test_from_state_reads_every_size_from_the_tensors() -> None:
    generator = small_generator()
    again = Generator.from_state(generator.state_dict(), lr_mul=0.5, clamp=256.0)
    assert again.channels == {4: 12, 8: 10, 16: 8}
    z = torch.randn(3, 24)
    assert torch.equal(generator(z, 0.7, 2), again(z, 0.7, 2))
    # 2 fully connected layers and w_avg; 13 tensors at 4 px; 19 at each further resolution.
    assert len(generator.state_dict()) == 5 + 13 + 2 * 19


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("mapping.fc0.weight"), "fc0"),
        (lambda s: s.pop("synthesis.b8.conv1.weight"), "resolutions"),
        (lambda s: s.update({"synthesis.b8.conv0.bias": torch.zeros(3)}), "conv0.bias"),
        (lambda s: s.update({"synthesis.b8.skip.weight": torch.zeros(3)}), "skip"),
        (lambda s: s.update({"mapping.fc0.weight": torch.zeros(3)}), "fc0"),
        (lambda s: s.clear(), "StyleGAN2"),
    ],
)
def test_tensors_of_something_else_are_refused(
    change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    state = dict(small_generator().state_dict())
    change(state)
    with pytest.raises(CheckpointDigestError, match=message):
        Generator.from_state(state)
