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
from huref.recipe import LATENT_SIZE

BLOCKS, TERMS = 2, 3


class Temper(nn.Module):
    """Tempers what few anchors or few entries would decide; odd, so zero-mean stays zero-mean.

    A row (and a column) whose mean square exceeds a floor is scaled down to it: otherwise cos z
    hangs on whether these anchors stay. Lighter rows, which hold more noise, are left as they
    are. An entry x becomes x / sqrt(1 + (x / limit)^2). One floor and one limit for each term,
    and all terms weigh alike again in the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_floor = nn.Parameter(torch.zeros(TERMS, 1, 1))
        self.log_limit = nn.Parameter(torch.full((TERMS, 1, 1), 1.5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., 3, m, m), each of mean square 1 or 0, to the same."""
        floor = self.log_floor.exp()
        rows = torch.maximum(x.square().mean(dim=-1, keepdim=True), floor)
        columns = torch.maximum(x.square().mean(dim=-2, keepdim=True), floor)
        x = x * (rows * columns).rsqrt()
        x = x / torch.sqrt(1 + (x / self.log_limit.exp()).square())
        power = x.square().mean(dim=(-2, -1), keepdim=True)
        return x * power.clamp(min=torch.finfo(x.dtype).tiny).rsqrt()


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
        """Raw terms (n, 2, 3, m, m) to what the convolutions read (n, channels, m, m).

        Anchors may be put in another order before or after: it is the same.
        """
        x = self.temper(standardise(terms))
        x = x.sum(dim=1) if self.share_blocks else x.flatten(1, 2)
        power = x.square().mean(dim=(1, 2, 3), keepdim=True)
        prepared: Tensor = x * power.clamp(min=torch.finfo(x.dtype).tiny).rsqrt()
        return prepared

    def finish(self, prepared: Tensor) -> Tensor:
        """What `prepare` gave to latents (n, 512)."""
        latent: Tensor = self.convolutions(prepared).flatten(1)
        return latent

    def forward(self, terms: Tensor) -> Tensor:
        """Raw terms (n, 2, 3, m, m) to latents (n, 512); a term of zeros is taken as missing."""
        return self.finish(self.prepare(terms))


class PaperCNN(nn.Module):
    """HuRef's published encoder (arXiv 2312.04828), for comparison only.

    Four convolutions of kernel 48, stride 4, padding 22, to 8, 64, 256 and 512 channels, each
    followed by ReLU and batch normalisation (the last by batch normalisation alone); the mean
    over positions is standardised. At the published 4,096 anchors it has 341 million parameters.
    With fewer anchors the outer part of the later kernels meets nothing but padding: those
    weights never matter and never change, so they are left out (256 anchors: 16 million remain).

    Args:
        anchors: m, of which it reads the first so many when terms hold more; 256 at least.
        channels: output channels of all convolutions but the last, which has 512.
    """

    def __init__(self, anchors: int = 256, channels: tuple[int, ...] = (8, 64, 256)) -> None:
        super().__init__()
        self.anchors = anchors
        widths = [BLOCKS * TERMS, *channels, LATENT_SIZE]
        layers: list[nn.Module] = []
        side = anchors
        for i in range(len(widths) - 1):
            # Offsets between an output and an entry of the map: 26 - side to side + 21.
            unreached = max(0, 26 - side)
            kernel = 48 - 2 * unreached
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel, stride=4, padding=22 - unreached)
            bound = 1 / math.sqrt(widths[i] * 48 * 48)  # torch's, for the whole kernel
            for parameter in conv.parameters():
                nn.init.uniform_(parameter, -bound, bound)
            layers.append(conv)
            if i + 2 < len(widths):
                layers.append(nn.ReLU())
            layers.append(nn.BatchNorm2d(widths[i + 1]))
            side //= 4
        self.layers = nn.Sequential(*layers)

    def prepare(self, terms: Tensor) -> Tensor:
        """Raw terms (n, 2, 3, m, m) to what the convolutions read (n, 6, anchors, anchors)."""
        return standardise(terms[..., : self.anchors, : self.anchors]).flatten(1, 2)

    def finish(self, prepared: Tensor) -> Tensor:
        """What `prepare` gave to latents (n, 512)."""
        pooled = self.layers(prepared).mean(dim=(2, 3))
        centred = pooled - pooled.mean(dim=1, keepdim=True)
        latent: Tensor = centred / centred.square().mean(dim=1, keepdim=True).sqrt()
        return latent

    def forward(self, terms: Tensor) -> Tensor:
        """Raw terms (n, 2, 3, m, m) to latents (n, 512)."""
        return self.finish(self.prepare(terms))


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
