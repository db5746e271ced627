"""StyleGAN2's generator in plain torch, with the key layout of NVIDIA's stylegan2-ada-pytorch.

The architecture is Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN"
(skip variant). Every width, depth and resolution is read from the tensors, so one class serves
whoever trained the network. Nothing here is random and nothing depends on the batch.
"""

import math
import re
from collections.abc import Mapping as MappingType
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from huref.errors import CheckpointDigestError

SQRT2 = math.sqrt(2.0)
LARGEST_SIDE = 1024  # pixels; the largest that anybody has published
BINOMIAL = (1.0, 3.0, 3.0, 1.0)

GeneratorType = TypeVar("GeneratorType", bound="Generator")


def resample_filter() -> Tensor:
    """Return the low-pass filter of up-sampling, (4, 4), summing to one."""
    row = torch.tensor(BINOMIAL)
    return torch.outer(row, row) / row.sum() ** 2


def low_pass(x: Tensor, kernel: Tensor, padding: tuple[int, int]) -> Tensor:
    """Filter every channel of x (n, c, h, w) with a symmetric kernel (4, 4), after zero padding.

    The gain of 4 makes up for the zeros that up-sampling by two puts between the samples.
    """
    before, after = padding
    x = functional.pad(x, (before, after, before, after))
    channels = x.shape[1]
    weight = (4.0 * kernel).to(x.dtype).expand(channels, 1, *kernel.shape)
    return functional.conv2d(x, weight, groups=channels)


def upsample_image(image: Tensor, kernel: Tensor) -> Tensor:
    """Double an image (n, c, h, w) to (n, c, 2h, 2w): zeros between the samples, then low-pass."""
    n, c, h, w = image.shape
    spread = image.new_zeros(n, c, h, 2, w, 2)
    spread[:, :, :, 0, :, 0] = image
    return low_pass(spread.view(n, c, 2 * h, 2 * w), kernel, (2, 1))


class FullyConnected(nn.Module):
    """A linear layer with equalised learning rate: the stored weight is scaled at run time."""

    def __init__(
        self, inputs: int, outputs: int, *, lr_mul: float = 1.0, bias: float = 0.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_mul)
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr_mul))
        self.lr_mul = lr_mul

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs) to (n, outputs)."""
        gain = self.lr_mul / math.sqrt(self.weight.shape[1])
        return functional.linear(x, self.weight * gain, self.bias * self.lr_mul)


class Mapping(nn.Module):
    """The network from z (n, z_dim) to w (n, w_dim), and the mean w for truncation."""

    w_avg: Tensor

    def __init__(self, z_dim: int, w_dim: int, depth: int, lr_mul: float) -> None:
        super().__init__()
        self.depth = depth
        for i in range(depth):
            layer = FullyConnected(z_dim if i == 0 else w_dim, w_dim, lr_mul=lr_mul)
            self.add_module(f"fc{i}", layer)
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def from_normalised(self, z: Tensor) -> Tensor:
        """Map z (n, z_dim), whose mean square is already one, to w (n, w_dim)."""
        for i in range(self.depth):
            z = functional.leaky_relu(self.get_submodule(f"fc{i}")(z), 0.2) * SQRT2
        return z

    def forward(self, z: Tensor) -> Tensor:
        """Map any z (n, z_dim) to w (n, w_dim); the length of z does not matter."""
        return self.from_normalised(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, optionally doubling the resolution, with fixed noise."""

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self, inputs: int, outputs: int, w_dim: int, resolution: int, *, up: bool = False
    ) -> None:
        super().__init__()
        self.up = up
        self.affine = FullyConnected(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", resample_filter())

    def forward(self, x: Tensor, w: Tensor, clamp: float | None) -> Tensor:
        """Map x (n, i, h, w) to (n, o, h, w), or to (n, o, 2h, 2w) when `up`.

        Scaling the inputs by the style s and the outputs by rsqrt(sum((W s)^2)) equals convolving
        each sample with a weight of its own, and needs one convolution for the whole batch.
        """
        style = self.affine(w)  # (n, i)
        power = self.weight.square().sum((2, 3))  # (o, i)
        demodulation = (style.square() @ power.T + 1e-8).rsqrt()  # (n, o)
        x = x * style.to(x.dtype)[:, :, None, None]
        weight = self.weight.to(x.dtype)
        if self.up:
            x = functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2)  # 2h + 1
            x = low_pass(x, self.resample_filter, (1, 1))
        else:
            x = functional.conv2d(x, weight, padding=1)
        # The gain of sqrt 2 after the activation is the same before it: lrelu(g x) = g lrelu(x).
        scale = (SQRT2 * demodulation).to(x.dtype)[:, :, None, None]
        offset = SQRT2 * (self.noise_const * self.noise_strength + self.bias[:, None, None])
        offset = offset.to(x.dtype)[None].contiguous(memory_format=torch.channels_last)
        x = functional.leaky_relu(torch.addcmul(offset, x, scale), 0.2)
        return x if clamp is None else x.clamp(-clamp, clamp)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to three channels, without normalisation."""

    def __init__(self, inputs: int, w_dim: int) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor, clamp: float | None) -> Tensor:
        """Map features (n, i, h, w) to colours (n, 3, h, w) in float32."""
        style = self.affine(w) / math.sqrt(self.weight.shape[1])  # (n, i)
        x = functional.conv2d(x * style.to(x.dtype)[:, :, None, None], self.weight.to(x.dtype))
        colour = x.float() + self.bias[:, None, None]
        return colour if clamp is None else colour.clamp(-clamp, clamp)


class Block(nn.Module):
    """One resolution: up-convolution (or the learned constant), convolution, colours."""

    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int, w_dim: int, resolution: int) -> None:
        super().__init__()
        self.first = resolution == 4
        self.register_buffer("resample_filter", resample_filter())
        if self.first:
            self.const = nn.Parameter(torch.randn(outputs, 4, 4))
        else:
            self.conv0 = StyledConv(inputs, outputs, w_dim, resolution, up=True)
        self.conv1 = StyledConv(outputs, outputs, w_dim, resolution)
        self.torgb = ToRGB(outputs, w_dim)

    @property
    def convolutions(self) -> int:
        """How many convolutions take a w of their own; the one of torgb is the next block's."""
        return 1 if self.first else 2

    def forward(
        self, x: Tensor, image: Tensor | None, ws: list[Tensor], clamp: float | None
    ) -> tuple[Tensor, Tensor]:
        """Map features (n, i, h, w) and the image so far to those of this resolution."""
        if not self.first:
            x = self.conv0(x, ws[0], clamp)
        x = self.conv1(x, ws[-2], clamp)
        colour = self.torgb(x, ws[-1], clamp)
        if image is not None:
            colour = colour + upsample_image(image, self.resample_filter)
        return x, colour


class Synthesis(nn.Module):
    """The network from one w per layer to an image."""

    def __init__(self, w_dim: int, channels: dict[int, int], clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        self.resolutions = sorted(channels)
        inputs = 0
        for resolution in self.resolutions:
            self.add_module(
                f"b{resolution}", Block(inputs, channels[resolution], w_dim, resolution)
            )
            inputs = channels[resolution]

    @property
    def num_ws(self) -> int:
        """How many w the network takes: one per convolution, one for the last torgb."""
        return 2 * len(self.resolutions)

    def forward(self, ws: list[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
        """Map `num_ws` tensors (n, w_dim) to an image (n, 3, r, r) in about [-1, 1].

        dtype is that of the convolutions; styles, normalisation and colours stay float32.
        """
        image: Tensor | None = None
        x = self.get_parameter("b4.const").to(dtype).expand(len(ws[0]), -1, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)
        used = 0
        for resolution in self.resolutions:
            block = self.get_submodule(f"b{resolution}")
            assert isinstance(block, Block)
            x, image = block(x, image, ws[used : used + block.convolutions + 1], self.clamp)
            used += block.convolutions
        assert image is not None
        return image


class Generator(nn.Module):
    """A StyleGAN2 generator: z (n, z_dim) to images (n, 3, r, r) in about [-1, 1].

    channels maps each resolution (4, 8, 16, ...) to its width. lr_mul is the learning-rate
    multiplier of the mapping, a part of its arithmetic that the tensors do not tell: 0.01 in
    NVIDIA's own networks. clamp bounds activations (256 where training used half precision).
    """

    def __init__(
        self,
        z_dim: int,
        w_dim: int,
        depth: int,
        channels: dict[int, int],
        *,
        lr_mul: float = 0.01,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.z_dim, self.w_dim, self.channels = z_dim, w_dim, channels
        self.mapping = Mapping(z_dim, w_dim, depth, lr_mul)
        self.synthesis = Synthesis(w_dim, channels, clamp)

    @property
    def resolution(self) -> int:
        """Height and width of the images, in pixels."""
        return self.synthesis.resolutions[-1]

    def truncate(self, w: Tensor, psi: float, cutoff: int | None) -> list[Tensor]:
        """Return one w per layer, the first `cutoff` (default all) drawn to the mean by psi."""
        near = self.mapping.w_avg + psi * (w - self.mapping.w_avg)
        count = self.synthesis.num_ws
        reach = count if cutoff is None else min(cutoff, count)
        return [near] * reach + [w] * (count - reach)

    def forward(self, z: Tensor, psi: float = 1.0, cutoff: int | None = None) -> Tensor:
        """Map z (n, z_dim) to images (n, 3, r, r) in float32."""
        image: Tensor = self.synthesis(self.truncate(self.mapping(z), psi, cutoff))
        return image

    @classmethod
    def from_state(
        cls,
        state: MappingType[str, Tensor],
        *,
        lr_mul: float = 0.01,
        clamp: float | None = None,
    ) -> "Generator":
        """Build the generator that these tensors describe, and load them as float32.

        Raises:
            CheckpointDigestError: the tensors are not those of a StyleGAN2 (skip) generator.
        """
        depth = sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", key)) for key in state)
        found = (re.fullmatch(r"synthesis\.b(\d+)\.conv1\.weight", key) for key in state)
        sizes = sorted(int(match[1]) for match in found if match)
        if (
            not depth
            or not 4 <= max(sizes, default=0) <= LARGEST_SIDE
            or sizes != [4 << i for i in range(len(sizes))]
        ):
            raise CheckpointDigestError(
                "not a StyleGAN2 generator: expected mapping.fc*.weight and "
                f"synthesis.b4, b8, ... among its tensors, found resolutions {sizes}"
            )
        first = rows(state, "mapping.fc0.weight")
        if first.ndim != 2:
            raise CheckpointDigestError("not a StyleGAN2 generator: mapping.fc0.weight is odd")
        channels = {r: len(rows(state, f"synthesis.b{r}.conv1.weight")) for r in sizes}
        # On the meta device nothing is allocated before the shapes are known to agree.
        with torch.device("meta"):
            generator = cls(
                first.shape[1], first.shape[0], depth, channels, lr_mul=lr_mul, clamp=clamp
            )
        return load_exactly(generator, state)


def rows(state: MappingType[str, Tensor], name: str) -> Tensor:
    """A tensor that has a first axis. Raises CheckpointDigestError when there is none."""
    if name not in state or state[name].ndim == 0:
        raise CheckpointDigestError(f"not a StyleGAN2 generator: {name} is missing or a number")
    return state[name]


def load_exactly(generator: GeneratorType, state: MappingType[str, Tensor]) -> GeneratorType:
    """Load a generator made on the meta device with these tensors as float32.

    Raises:
        CheckpointDigestError: a tensor is missing, has another shape, or belongs to nothing.
    """
    for key, expected in generator.state_dict().items():
        if key not in state or state[key].shape != expected.shape:
            have = "missing" if key not in state else f"{tuple(state[key].shape)}"
            raise CheckpointDigestError(
                f"not a StyleGAN2 generator: {key} should be {tuple(expected.shape)}, is {have}"
            )
    unknown = sorted(set(state) - set(generator.state_dict()))
    if unknown:
        raise CheckpointDigestError(
            f"a StyleGAN2 variant that is not supported: unexpected tensor {unknown[0][:100]}"
        )
    tensors = {key: value.to(torch.float32, copy=True) for key, value in state.items()}
    generator.load_state_dict(tensors, assign=True)
    return generator.eval().requires_grad_(False)
