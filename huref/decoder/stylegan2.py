"""StyleGAN2's generator in plain torch, with the tensor names of NVIDIA's stylegan2-ada-pytorch.

The architecture is the skip variant of Karras et al. 2020, "Analyzing and Improving the Image
Quality of StyleGAN". Widths, depth and resolution are read from the tensors. The forward pass is
deterministic and does not depend on the batch. Formulas: docs/maths.md, Decoder.
"""

import re
from collections.abc import Mapping as MappingType
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from huref.decoder.stylegan2_layers import (
    SQRT2,
    FullyConnected,
    StyledConv,
    ToRGB,
    random_normal,
    resample_filter,
    upsample_image,
)
from huref.errors import CheckpointDigestError

LARGEST_SIDE = 1024  # pixels; the largest published generators

GeneratorType = TypeVar("GeneratorType", bound="Generator")


class Mapping(nn.Module):
    """The network from z (n, z_dim) to w (n, w_dim), and the mean w, which truncation needs."""

    w_avg: Tensor

    def __init__(self, z_dim: int, w_dim: int, depth: int, lr_mul: float) -> None:
        super().__init__()
        self.depth = depth
        for i in range(depth):
            layer = FullyConnected(z_dim if i == 0 else w_dim, w_dim, lr_mul=lr_mul)
            self.add_module(f"fc{i}", layer)
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def from_normalised(self, z: Tensor) -> Tensor:
        """Map z (n, z_dim) of mean square 1 to w (n, w_dim)."""
        for i in range(self.depth):
            z = functional.leaky_relu(self.get_submodule(f"fc{i}")(z), 0.2) * SQRT2
        return z

    def forward(self, z: Tensor) -> Tensor:
        """Map z (n, z_dim) of any length to w (n, w_dim); only the direction of z matters."""
        return self.from_normalised(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())


class SynthesisBlock(nn.Module):
    """The layers of one resolution: up-convolution (at 4 px a constant), convolution, colours."""

    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int, w_dim: int, resolution: int) -> None:
        super().__init__()
        self.first = resolution == 4
        self.register_buffer("resample_filter", resample_filter())
        if self.first:
            self.const = nn.Parameter(random_normal(outputs, 4, 4))
        else:
            self.conv0 = StyledConv(inputs, outputs, w_dim, resolution, up=True)
        self.conv1 = StyledConv(outputs, outputs, w_dim, resolution)
        self.torgb = ToRGB(outputs, w_dim)

    @property
    def convolutions(self) -> int:
        """Number of convolutions, each with its own w; torgb uses the w of the next block."""
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
                f"b{resolution}", SynthesisBlock(inputs, channels[resolution], w_dim, resolution)
            )
            inputs = channels[resolution]

    @property
    def num_ws(self) -> int:
        """Number of w that the network takes: one per convolution and one for the last torgb."""
        return 2 * len(self.resolutions)

    def forward(self, ws: list[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
        """Map `num_ws` tensors (n, w_dim) to an image (n, 3, r, r) in about [-1, 1].

        dtype is the type of the convolutions; styles, demodulation and colours are float32.
        """
        image: Tensor | None = None
        x = self.get_parameter("b4.const").to(dtype).expand(len(ws[0]), -1, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)
        used = 0
        for resolution in self.resolutions:
            block = self.get_submodule(f"b{resolution}")
            assert isinstance(block, SynthesisBlock)
            x, image = block(x, image, ws[used : used + block.convolutions + 1], self.clamp)
            used += block.convolutions
        assert image is not None
        return image


class Generator(nn.Module):
    """A StyleGAN2 generator: z (n, z_dim) to images (n, 3, r, r) in about [-1, 1].

    Args:
        z_dim, w_dim: dimensions of z and w.
        depth: number of layers of the mapping network.
        channels: number of channels of each resolution (4, 8, 16, ...).
        lr_mul: learning-rate multiplier of the mapping network, which scales its stored weights;
            0.01 in NVIDIA's networks. It cannot be read from the tensors.
        clamp: bound of the activations; 256 where training used half precision. It cannot be read
            from the tensors.
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
        """One w per layer: in the first `cutoff` (None: all) layers mean + psi * (w - mean)."""
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
        """A generator of these tensors, converted to float32, in evaluation mode.

        Raises:
            CheckpointDigestError: they are not the tensors of a StyleGAN2 generator (skip variant).
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
                "not a StyleGAN2 generator: expected tensors mapping.fc*.weight and "
                f"synthesis.b4, b8, ..., found the resolutions {sizes}"
            )
        first = mapping_weight(state)
        channels = {r: len(array(state, f"synthesis.b{r}.conv1.weight")) for r in sizes}
        # On the meta device nothing is allocated before shapes have been compared.
        with torch.device("meta"):
            generator = cls(
                first.shape[1], first.shape[0], depth, channels, lr_mul=lr_mul, clamp=clamp
            )
        return load_exactly(generator, state)


def array(state: MappingType[str, Tensor], name: str) -> Tensor:
    """A tensor with at least one axis.

    Raises:
        CheckpointDigestError: it is missing or has no axes.
    """
    if name not in state or state[name].ndim == 0:
        found = "missing" if name not in state else "a single number"
        raise CheckpointDigestError(f"it is {found}; not a StyleGAN2 generator", tensor=name)
    return state[name]


def mapping_weight(state: MappingType[str, Tensor]) -> Tensor:
    """The first weight (w_dim, z_dim) of the mapping network.

    Raises:
        CheckpointDigestError: it is missing or has another number of axes.
    """
    name = "mapping.fc0.weight"
    weight = array(state, name)
    if weight.ndim != 2:
        raise CheckpointDigestError(
            f"it has {weight.ndim} axes instead of 2; not a StyleGAN2 generator", tensor=name
        )
    return weight


def load_exactly(generator: GeneratorType, state: MappingType[str, Tensor]) -> GeneratorType:
    """Load tensors as float32 into a generator that was made on the meta device.

    Raises:
        CheckpointDigestError: a tensor is missing, has another shape, or is not expected.
    """
    for key, expected in generator.state_dict().items():
        if key not in state or state[key].shape != expected.shape:
            found = "missing" if key not in state else f"of shape {tuple(state[key].shape)}"
            raise CheckpointDigestError(
                f"it is {found}; a StyleGAN2 generator has one of shape {tuple(expected.shape)}",
                tensor=key,
            )
    unknown = sorted(set(state) - set(generator.state_dict()))
    if unknown:
        raise CheckpointDigestError(
            "it is not expected; a variant of StyleGAN2 that is not supported",
            tensor=unknown[0][:100],
        )
    tensors = {key: value.to(torch.float32, copy=True) for key, value in state.items()}
    generator.load_state_dict(tensors, assign=True)
    return generator.eval().requires_grad_(False)
