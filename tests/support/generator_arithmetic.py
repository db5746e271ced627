"""The operations of StyleGAN2 as plain sums in float64, without any of huref's decoder.

Every convolution, with its resampling, is a sum over kernel taps of weight * (L_a X R_b^T), where
the small matrices L_a and R_b state which sample each tap reads. The reference implementations of
three code bases use these operations: `nvidia_generator`, `rosinality_generator` and
`lucidrains_generator`.
"""

from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
TAPS = [0.25, 0.75, 0.75, 0.25]  # the binomial filter, with the gain of two per axis
SIDES = (4, 8, 16)
WIDTHS = {4: 12, 8: 10, 16: 6}
W, Z = 20, 512


def matrix(rows: int, columns: int, entry: Any) -> Tensor:
    return torch.tensor(
        [[entry(n, i) for i in range(columns)] for n in range(rows)], dtype=torch.float64
    )


def tap(k: int) -> float:
    return TAPS[k] if 0 <= k < 4 else 0.0


def shifts(side: int) -> list[Tensor]:
    return [matrix(side, side, lambda n, i, a=a: float(i == n + a - 1)) for a in range(3)]


def transposed(side: int) -> list[Tensor]:
    """A transposed convolution of stride two, then the filter with one zero at each end."""
    return [matrix(2 * side, side, lambda n, i, a=a: tap(2 * i + a - n + 1)) for a in range(3)]


def upsampling(side: int) -> Tensor:
    """Zeros between the samples, two before and one behind, then the filter."""
    return matrix(2 * side, side, lambda n, i: tap(2 * i - n + 2))


def bilinear(side: int) -> Tensor:
    def entry(n: int, i: int) -> float:
        other = min(max(n // 2 + (1 if n % 2 else -1), 0), side - 1)
        return 0.75 * (i == n // 2) + 0.25 * (i == other)

    return matrix(2 * side, side, entry)


def blur(side: int) -> Tensor:
    def entry(n: int, i: int) -> float:
        ends = [abs(n - 1), side - 1 - abs(side - 2 - n)]  # reflected without the border itself
        return 0.5 * (i == n) + sum(0.25 * (i == end) for end in ends)

    return matrix(side, side, entry)


def convolve(weight: Tensor, x: Tensor, taps: list[Tensor]) -> Tensor:
    """Weight (o, i, 3, 3) and x (i, h, h) to (o, ...)."""
    parts = []
    for a, left in enumerate(taps):
        for b, right in enumerate(taps):
            parts.append(torch.einsum("oi,ihw->ohw", weight[:, :, a, b], left @ x @ right.T))
    return torch.stack(parts).sum(0)


def resample(image: Tensor, operator: Tensor) -> Tensor:
    return torch.einsum("nh,chw,mw->cnm", operator, image, operator)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def normalised(z: Tensor) -> Tensor:
    return z / (z.square().mean() + 1e-8).sqrt()


def demodulated(weight: Tensor) -> Tensor:
    return weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape)
