"""The layers of StyleGAN2's generator (Karras et al. 2020), with NVIDIA's names of tensors.

The layers are random only where they are initialised, and no output depends on the batch.
Formulas: docs/maths.md, Decoder.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SQRT2 = math.sqrt(2.0)
BINOMIAL = (1.0, 3.0, 3.0, 1.0)


def resample_filter() -> Tensor:
    """The low-pass filter of up-sampling, (4, 4), with sum 1."""
    # Python's numbers, which are exact here: torch.outer on the meta device imports torch._dynamo.
    total = sum(BINOMIAL) ** 2
    return torch.tensor([[a * b / total for b in BINOMIAL] for a in BINOMIAL])


def low_pass(x: Tensor, kernel: Tensor, padding: tuple[int, int]) -> Tensor:
    """Filter every channel of x (n, c, h, w) with a symmetric kernel (4, 4), after zero padding.

    The gain of 4 compensates for the zeros that up-sampling by two inserts between the samples.
    """
    before, after = padding
    x = functional.pad(x, (before, after, before, after))
    channels = x.shape[1]
    weight = (4.0 * kernel).to(x.dtype).expand(channels, 1, *kernel.shape)
    return functional.conv2d(x, weight, groups=channels)


def upsample_image(image: Tensor, kernel: Tensor) -> Tensor:
    """Up-sample an image (n, c, h, w) to (n, c, 2h, 2w): insert zeros, then filter."""
    n, c, h, w = image.shape
    spread = image.new_zeros(n, c, h, 2, w, 2)
    spread[:, :, :, 0, :, 0] = image
    return low_pass(spread.view(n, c, 2 * h, 2 * w), kernel, (2, 1))


def random_normal(*shape: int, divisor: float = 1.0) -> Tensor:
    """Normal numbers of deviation 1 / divisor.

    On the meta device none are drawn: arithmetic there imports SymPy, which takes half a second.
    """
    values = torch.empty(shape)
    return values if values.is_meta else values.normal_().div_(divisor)


class FullyConnected(nn.Module):
    """A linear layer with equalised learning rate: the stored weight is scaled at run time."""

    def __init__(
        self, inputs: int, outputs: int, *, lr_mul: float = 1.0, bias: float = 0.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(random_normal(outputs, inputs, divisor=lr_mul))
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr_mul))
        self.lr_mul = lr_mul

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs) to (n, outputs)."""
        gain = self.lr_mul / math.sqrt(self.weight.shape[1])
        return functional.linear(x, self.weight * gain, self.bias * self.lr_mul)


class StyledConv(nn.Module):
    """Modulated 3x3 convolution with fixed noise; doubles the resolution if `up`."""

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self, inputs: int, outputs: int, w_dim: int, resolution: int, *, up: bool = False
    ) -> None:
        super().__init__()
        self.up = up
        self.affine = FullyConnected(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(random_normal(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", random_normal(resolution, resolution))
        self.register_buffer("resample_filter", resample_filter())

    def forward(self, x: Tensor, w: Tensor, clamp: float | None) -> Tensor:
        """Map x (n, i, h, w) to (n, o, h, w), or to (n, o, 2h, 2w) when `up`.

        Scaling the inputs by the style s and the outputs by rsqrt(sum((W s)^2)) equals a
        convolution with a separate weight per sample, and needs one convolution for the batch.
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
        # The gain of sqrt 2 commutes with the activation: lrelu(g x) = g lrelu(x).
        scale = (SQRT2 * demodulation).to(x.dtype)[:, :, None, None]
        offset = SQRT2 * (self.noise_const * self.noise_strength + self.bias[:, None, None])
        offset = offset.to(x.dtype)[None].contiguous(memory_format=torch.channels_last)
        x = functional.leaky_relu(torch.addcmul(offset, x, scale), 0.2)
        return x if clamp is None else x.clamp(-clamp, clamp)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to three channels, without demodulation."""

    def __init__(self, inputs: int, w_dim: int) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(random_normal(3, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor, clamp: float | None) -> Tensor:
        """Map features (n, i, h, w) to colours (n, 3, h, w) in float32."""
        style = self.affine(w) / math.sqrt(self.weight.shape[1])  # (n, i)
        x = functional.conv2d(x * style.to(x.dtype)[:, :, None, None], self.weight.to(x.dtype))
        colour = x.float() + self.bias[:, None, None]
        return colour if clamp is None else colour.clamp(-clamp, clamp)
