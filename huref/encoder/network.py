"""The encoder's networks: terms (n, 2, 3, m, m) in, latents (n, 512) out.

For Gaussian inputs of correlation rho no map to a Gaussian correlates more than rho (Gaussian
maximal correlation); an orthogonal projection attains it. So `FingerprintCNN` starts as one: its
convolutions do not overlap and start with orthonormal kernels, their composition reaches every
entry, and nothing is averaged away. What a projection cannot do it does before them: temper
outliers, and read both blocks alike.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from huref.errors import RecipeError
from huref.invariants.terms import standardise

LATENT = 512
BLOCKS, TERMS = 2, 3
_SMALLEST = 1e-4  # of a mean square; rows below are empty buckets or as good as empty


class Temper(nn.Module):
    """Tempers outliers, entry by entry and row by row; odd, so that zero-mean stays zero-mean.

    A row (and a column) is divided by a power of its root mean square, an entry x becomes
    x / sqrt(1 + (x / limit)^2). One exponent and one limit for each term.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.full((TERMS, 1, 1), 0.1))
        self.log_limit = nn.Parameter(torch.full((TERMS, 1, 1), 1.5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., 3, m, m) to the same shape."""
        rows = x.square().mean(dim=-1, keepdim=True).clamp(min=_SMALLEST)
        columns = x.square().mean(dim=-2, keepdim=True).clamp(min=_SMALLEST)
        x = x * (rows * columns).pow(-0.5 * self.exponent)
        return x / torch.sqrt(1 + (x / self.log_limit.exp()).square())


class Bend(nn.Module):
    """A mild odd nonlinearity: x - bend * x^3 / (1 + x^2), per channel; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bend = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to the same shape."""
        squared = x.square()
        return x - self.bend * x * squared / (1 + squared)


class FingerprintCNN(nn.Module):
    """The encoder that huref ships.

    Args:
        anchors: m; the product of the kernels must be m.
        channels: output channels of all convolutions but the last, which has 512.
        kernels: kernel size and stride of each convolution.
        share_blocks: add the two blocks before the convolutions instead of stacking them, so
            that a block which moved from one place to the other is still recognised.
        temper, bend: whether the layers of that name are there (for ablations).
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
        reach = math.prod(kernels)
        if reach != anchors or len(kernels) != len(channels) + 1:
            raise RecipeError(
                f"encoder config: kernels {list(kernels)} with channels {list(channels)} do not "
                f"cover {anchors} anchors; their product must be the number of anchors, and "
                "there is one channel count fewer than kernels"
            )
        self.share_blocks = share_blocks
        self.temper = Temper() if temper else nn.Identity()
        widths = [TERMS if share_blocks else BLOCKS * TERMS, *channels, LATENT]
        layers: list[nn.Module] = []
        for i, kernel in enumerate(kernels):
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel, stride=kernel, bias=False)
            nn.init.orthogonal_(conv.weight.view(widths[i + 1], -1))
            layers.append(conv)
            if bend and i + 1 < len(kernels):
                layers.append(Bend(widths[i + 1]))
        self.convolutions = nn.Sequential(*layers)

    def forward(self, terms: Tensor) -> Tensor:
        """Raw terms (n, 2, 3, m, m) to latents (n, 512); a term of zeros is taken as missing."""
        x = self.temper(standardise(terms))
        x = x.sum(dim=1) if self.share_blocks else x.flatten(1, 2)
        power = x.square().mean(dim=(1, 2, 3), keepdim=True)
        x = x * power.clamp(min=torch.finfo(x.dtype).tiny).rsqrt()
        latent: Tensor = self.convolutions(x).flatten(1)
        return latent


class PaperCNN(nn.Module):
    """HuRef's published encoder (arXiv 2312.04828), for comparison only.

    Four convolutions of kernel 48, stride 4, padding 22, to 8, 64, 256 and 512 channels, each
    followed by ReLU and batch normalisation (the last by batch normalisation alone); the mean
    over positions is standardised. 341 million parameters.
    """

    def __init__(self, anchors: int = 512, channels: tuple[int, ...] = (8, 64, 256)) -> None:
        super().__init__()
        self.anchors = anchors
        widths = [BLOCKS * TERMS, *channels, LATENT]
        layers: list[nn.Module] = []
        for i in range(len(widths) - 1):
            layers.append(nn.Conv2d(widths[i], widths[i + 1], 48, stride=4, padding=22))
            if i + 2 < len(widths):
                layers.append(nn.ReLU())
            layers.append(nn.BatchNorm2d(widths[i + 1]))
        self.layers = nn.Sequential(*layers)

    def forward(self, terms: Tensor) -> Tensor:
        """Raw terms (n, 2, 3, m, m) to latents (n, 512)."""
        pooled = self.layers(standardise(terms).flatten(1, 2)).mean(dim=(2, 3))
        centred = pooled - pooled.mean(dim=1, keepdim=True)
        latent: Tensor = centred / centred.square().mean(dim=1, keepdim=True).sqrt()
        return latent


Network = FingerprintCNN | PaperCNN


def build_network(architecture: dict[str, Any]) -> Network:
    """The network that a config's `architecture` section describes.

    Raises:
        RecipeError: an unknown kind or option, or sizes that do not fit.
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
