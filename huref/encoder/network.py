"""The encoder's networks: terms (n, 2, 3, m, m) in, latents (n, 512) out.

For two Gaussian inputs of correlation rho, no map to Gaussian outputs has a correlation above rho
(Gaussian maximal correlation); an orthogonal projection attains rho. So `FingerprintCNN` is
initialised as a projection: its convolutions do not overlap, their kernels are orthonormal, and
their composition covers every entry without pooling. Before the convolutions it does what a
projection cannot: it limits outliers and adds the two blocks. See docs/maths.md, Encoder.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from huref.errors import RecipeError
from huref.invariants.terms import standardise
from huref.recipe import LATENT_SIZE

BLOCKS, TERMS = 2, 3


class Temper(nn.Module):
    """Limits the influence of single anchors and single entries; an odd function.

    A row or column whose mean square exceeds a floor is scaled down to it; otherwise cos z would
    depend on whether these few anchors are kept. Rows below the floor, which hold more noise, are
    not changed. An entry x becomes x / sqrt(1 + (x / limit)^2). Each term has a floor and a limit
    of its own, and is finally scaled to mean square 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_floor = nn.Parameter(torch.zeros(TERMS, 1, 1))
        self.log_limit = nn.Parameter(torch.full((TERMS, 1, 1), 1.5))

    def forward(self, x: Tensor) -> Tensor:
        """Map terms (..., 3, m, m) of mean square 1 or 0 to the same shape and mean square."""
        floor = self.log_floor.exp()
        rows = torch.maximum(x.square().mean(dim=-1, keepdim=True), floor)
        columns = torch.maximum(x.square().mean(dim=-2, keepdim=True), floor)
        x = x * (rows * columns).rsqrt()
        x = x / torch.sqrt(1 + (x / self.log_limit.exp()).square())
        power = x.square().mean(dim=(-2, -1), keepdim=True)
        return x * power.clamp(min=torch.finfo(x.dtype).tiny).rsqrt()


class Bend(nn.Module):
    """The odd function x - bend * x^3 / (1 + x^2), per channel; initially the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bend = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w) to the same shape."""
        squared = x.square()
        return x - self.bend * x * squared / (1 + squared)


class FingerprintCNN(nn.Module):
    """The network of the shipped encoder.

    Args:
        anchors: m; the product of the kernels must be m.
        channels: output channels of all convolutions but the last, which has 512.
        kernels: kernel size and stride of each convolution.
        share_blocks: whether the two blocks are added before the convolutions instead of stacked,
            so that a block is recognised after it moved from one position to the other.
        temper, bend: whether the network has the layers of that name (for ablations).
    """

    def __init__(
        self,
        anchors: int = 512,
        channels: tuple[int, ...] = (64, 512),
        kernels: tuple[int, ...] = (16, 8, 4),
        share_blocks: bool = True,
        temper: bool = True,
        bend: bool = True,
    ) -> None:
        super().__init__()
        if math.prod(kernels) != anchors or len(kernels) != len(channels) + 1:
            raise RecipeError(
                f"encoder config: kernels {list(kernels)} with channels {list(channels)} do not "
                f"cover {anchors} anchors; their product must be the number of anchors, and "
                "there is one channel count fewer than kernels"
            )
        self.share_blocks = share_blocks
        self.temper = Temper() if temper else nn.Identity()
        widths = [TERMS if share_blocks else BLOCKS * TERMS, *channels, LATENT_SIZE]
        layers: list[nn.Module] = []
        for i, kernel in enumerate(kernels):
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel, stride=kernel, bias=False)
            nn.init.orthogonal_(conv.weight.view(widths[i + 1], -1))
            layers.append(conv)
            if bend and i + 1 < len(kernels):
                layers.append(Bend(widths[i + 1]))
        self.convolutions = nn.Sequential(*layers)

    def prepare(self, terms: Tensor) -> Tensor:
        """Map raw terms (n, 2, 3, m, m) to the input (n, channels, m, m) of the convolutions.

        Commutes with a permutation of the anchors.
        """
        x = self.temper(standardise(terms))
        x = x.sum(dim=1) if self.share_blocks else x.flatten(1, 2)
        # In two steps: a mean to one number is divided among threads, and its bits are theirs.
        power = x.square().mean(dim=(2, 3), keepdim=True).mean(dim=1, keepdim=True)
        prepared: Tensor = x * power.clamp(min=torch.finfo(x.dtype).tiny).rsqrt()
        return prepared

    def finish(self, prepared: Tensor) -> Tensor:
        """Map the result of `prepare` to latents (n, 512)."""
        latent: Tensor = self.convolutions(prepared).flatten(1)
        return latent

    def forward(self, terms: Tensor) -> Tensor:
        """Map raw terms (n, 2, 3, m, m) to latents (n, 512); a zero term counts as missing."""
        return self.finish(self.prepare(terms))


class PaperCNN(nn.Module):
    """HuRef's published encoder (arXiv 2312.04828), for comparison.

    Four convolutions of kernel 48, stride 4, padding 22, to 8, 64, 256 and 512 channels, each
    followed by ReLU and batch normalisation (the last by batch normalisation alone); the mean
    over positions is standardised. With the published 4,096 anchors it has 341 million parameters.
    With fewer anchors the outer part of the later kernels only meets padding. Its weights have no
    effect and no gradient, so they are left out (256 anchors: 16 million parameters remain).

    Args:
        anchors: number of rows and columns that are read, at least 256; further ones are ignored.
        channels: output channels of all convolutions but the last, which has 512.
    """

    def __init__(self, anchors: int = 256, channels: tuple[int, ...] = (8, 64, 256)) -> None:
        super().__init__()
        self.anchors = anchors
        widths = [BLOCKS * TERMS, *channels, LATENT_SIZE]
        layers: list[nn.Module] = []
        side = anchors
        for i in range(len(widths) - 1):
            # Offsets between an output and an entry of the map are 26 - side to side + 21.
            unreached = max(0, 26 - side)
            kernel = 48 - 2 * unreached
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel, stride=4, padding=22 - unreached)
            bound = 1 / math.sqrt(widths[i] * 48 * 48)  # torch's default for the whole kernel
            for parameter in conv.parameters():
                nn.init.uniform_(parameter, -bound, bound)
            layers.append(conv)
            if i + 2 < len(widths):
                layers.append(nn.ReLU())
            layers.append(nn.BatchNorm2d(widths[i + 1]))
            side //= 4
        self.layers = nn.Sequential(*layers)

    def prepare(self, terms: Tensor) -> Tensor:
        """Map raw terms (n, 2, 3, m, m) to the convolutions' input (n, 6, anchors, anchors)."""
        return standardise(terms[..., : self.anchors, : self.anchors]).flatten(1, 2)

    def finish(self, prepared: Tensor) -> Tensor:
        """Map the result of `prepare` to latents (n, 512)."""
        pooled = self.layers(prepared).mean(dim=(2, 3))
        centred = pooled - pooled.mean(dim=1, keepdim=True)
        latent: Tensor = centred / centred.square().mean(dim=1, keepdim=True).sqrt()
        return latent

    def forward(self, terms: Tensor) -> Tensor:
        """Map raw terms (n, 2, 3, m, m) to latents (n, 512)."""
        return self.finish(self.prepare(terms))


Network = FingerprintCNN | PaperCNN


def build_network(architecture: dict[str, Any]) -> Network:
    """Build the network that the `architecture` section of a config describes.

    Raises:
        RecipeError: the kind or an option is unknown, or sizes do not fit.
    """
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in architecture.items()}
    kind = options.pop("kind", None)
    kinds: dict[str, Callable[..., Network]] = {"fingerprint": FingerprintCNN, "paper": PaperCNN}
    if kind not in kinds:
        raise RecipeError(f"encoder config: unknown architecture {kind!r}; known: {list(kinds)}")
    try:
        return kinds[kind](**options)
    except TypeError as error:
        raise RecipeError(f"encoder config: architecture {kind}: {error}") from error
