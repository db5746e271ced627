"""The generator of lucidrains' stylegan2-pytorch: a variant of StyleGAN2 with other arithmetic.

Differences from `huref.decoder.stylegan2`: up-sampling is bilinear and precedes the convolution
instead of being part of it; all layers share one noise field, scaled per channel; all layers of a
resolution share one w; colours are up-sampled after they were summed. The mapping network and the
styles differ by constants only, which `huref.decoder.dialects` folds into the weights, so the
layers of `stylegan2` are used for both. Formulas: docs/maths.md, Decoder.
"""

import math
from collections.abc import Mapping as MappingType

import torch
from torch import Tensor, nn
from torch.nn import functional

from huref.decoder.stylegan2 import (
    LARGEST_SIDE,
    Generator,
    Mapping,
    Synthesis,
    array,
    load_exactly,
    mapping_weight,
)
from huref.decoder.stylegan2_layers import FullyConnected
from huref.errors import CheckpointDigestError

BLUR = (1.0, 2.0, 1.0)


def upsample_bilinear(image: Tensor) -> Tensor:
    """Up-sample an image (n, c, h, w) to (n, c, 2h, 2w): bilinear, then a blur, reflect-padded."""
    image = functional.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    row = torch.tensor(BLUR, dtype=image.dtype) / sum(BLUR)
    kernel = torch.outer(row, row).expand(image.shape[1], 1, 3, 3)
    padded = functional.pad(image, (1, 1, 1, 1), mode="reflect")
    return functional.conv2d(padded, kernel, groups=image.shape[1])


class NoisyConv(nn.Module):
    """Modulated 3x3 convolution; adds noise (h, w), scaled per channel, and a bias."""

    def __init__(self, inputs: int, outputs: int, w_dim: int) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.noise_scale = nn.Parameter(torch.zeros(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """Map x (n, i, h, w) to (n, o, h, w)."""
        style = self.affine(w)  # (n, i)
        power = self.weight.square().sum((2, 3))  # (o, i)
        demodulation = (style.square() @ power.T + 1e-8).rsqrt()  # (n, o)
        x = functional.conv2d(x * style[:, :, None, None], self.weight, padding=1)
        offset = self.noise_scale[:, None, None] * noise + self.bias[:, None, None]
        return functional.leaky_relu(x * demodulation[:, :, None, None] + offset, 0.2)


class ColourConv(nn.Module):
    """Modulated 1x1 convolution to three channels, without demodulation, gain or bias."""

    def __init__(self, inputs: int, w_dim: int) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Map features (n, i, h, w) to colours (n, 3, h, w)."""
        return functional.conv2d(x * self.affine(w)[:, :, None, None], self.weight)


class SmoothBlock(nn.Module):
    """The layers of one resolution: two convolutions and colours."""

    def __init__(self, inputs: int, outputs: int, w_dim: int) -> None:
        super().__init__()
        self.conv0 = NoisyConv(inputs, outputs, w_dim)
        self.conv1 = NoisyConv(outputs, outputs, w_dim)
        self.torgb = ColourConv(outputs, w_dim)


class SmoothSynthesis(Synthesis):
    """The network from one w per resolution to an image.

    The original draws new noise for every image; here it is a stored buffer (r, r), transposed.
    """

    noise: Tensor

    def __init__(self, w_dim: int, channels: dict[int, int], first: int) -> None:
        nn.Module.__init__(self)
        self.resolutions = sorted(channels)
        self.register_buffer("noise", torch.rand(self.resolutions[-1], self.resolutions[-1]))
        self.const = nn.Parameter(torch.randn(first, 4, 4))
        self.input = nn.Conv2d(first, first, 3, padding=1)
        inputs = first
        for resolution in self.resolutions:
            block = SmoothBlock(inputs, channels[resolution], w_dim)
            self.add_module(f"b{resolution}", block)
            inputs = channels[resolution]

    @property
    def num_ws(self) -> int:
        """Number of w that the network takes: one per resolution."""
        return len(self.resolutions)

    def forward(self, ws: list[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
        """Map `num_ws` tensors (n, w_dim) to an image (n, 3, r, r) in about [-1, 1]."""
        x = self.input(self.const.to(dtype).expand(len(ws[0]), -1, -1, -1))
        image: Tensor | None = None
        for resolution, w in zip(self.resolutions, ws, strict=True):
            block = self.get_submodule(f"b{resolution}")
            assert isinstance(block, SmoothBlock)
            if image is not None:
                image = upsample_bilinear(image)
                x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            noise = self.noise[:resolution, :resolution]
            x = block.conv1(block.conv0(x, w, noise), w, noise)
            colour = block.torgb(x, w)
            image = colour if image is None else image + colour
        assert image is not None
        return 2 * image - 1


class SmoothGenerator(Generator):
    """lucidrains' generator: z (n, z_dim) to images (n, 3, r, r) in about [-1, 1]."""

    def __init__(
        self,
        z_dim: int,
        w_dim: int,
        depth: int,
        channels: dict[int, int],
        *,
        first: int,
        lr_mul: float = 1.0,
    ) -> None:
        nn.Module.__init__(self)
        self.z_dim, self.w_dim, self.channels = z_dim, w_dim, channels
        self.mapping = Mapping(z_dim, w_dim, depth, lr_mul)
        self.synthesis = SmoothSynthesis(w_dim, channels, first)

    @classmethod
    def from_state(
        cls,
        state: MappingType[str, Tensor],
        *,
        lr_mul: float = 1.0,
        clamp: float | None = None,
    ) -> "SmoothGenerator":
        """A generator of these tensors, converted to float32, in evaluation mode.

        Raises:
            CheckpointDigestError: they are not the tensors of a generator of stylegan2-pytorch.
        """
        sides = [4 << i for i in range(LARGEST_SIDE.bit_length() - 2)]
        present = [r for r in sides if f"synthesis.b{r}.conv1.weight" in state]
        channels = {r: len(array(state, f"synthesis.b{r}.conv1.weight")) for r in present}
        depth = 0
        while f"mapping.fc{depth}.weight" in state:
            depth += 1
        const, first = array(state, "synthesis.const"), mapping_weight(state)
        if not channels or clamp is not None:
            raise CheckpointDigestError("not a generator of stylegan2-pytorch")
        with torch.device("meta"):
            generator = cls(
                first.shape[1],
                first.shape[0],
                depth,
                channels,
                first=const.shape[0],
                lr_mul=lr_mul,
            )
        return load_exactly(generator, state)


def fold_linear(weight: Tensor, bias: Tensor, gain: float) -> tuple[Tensor, Tensor]:
    """Weight (o, i) and bias (o) with which `FullyConnected` (lr_mul 1) gives gain * (W x + b)."""
    return gain * weight * math.sqrt(weight.shape[1]), gain * bias
