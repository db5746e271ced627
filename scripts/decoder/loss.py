"""Loss and PSNR of pictures against drawings."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def laplacian_pyramid(image: Tensor, smallest: int = 8) -> list[Tensor]:
    """Laplacian pyramid of images (n, c, r, r), ending with the image of size `smallest`."""
    levels = []
    while image.shape[-1] > smallest:
        half = functional.avg_pool2d(image, 2)
        levels.append(image - functional.interpolate(half, scale_factor=2, mode="nearest"))
        image = half
    return [*levels, image]


def distance(
    output: Tensor,
    target: Tensor,
    *,
    contrast: float,
    detail: float,
    edges: float,
    squares: float = 0.0,
) -> Tensor:
    """Weighted sum of errors of colours, pyramid levels and gradients.

    Args:
        output: pictures (n, 3, r, r) in [-1, 1].
        target: drawings of the same shape.
        contrast: the absolute error of a pixel's colour has the weight
            1 + contrast * (local contrast of the drawing / its mean), normalised, because eyes,
            nose, markings and ear tips have few pixels and high contrast.
        detail: weight of the mean absolute error of each level of the Laplacian pyramid.
        edges: weight of the mean absolute error of the gradients.
        squares: weight of the mean squared error of colours, which penalises large errors such as a
            missing ear more than small ones such as a shade of fur.
    """
    around = functional.avg_pool2d(target, 5, stride=1, padding=2, count_include_pad=False)
    local = (target - around).abs().mean(1, keepdim=True)
    mean = local.mean((1, 2, 3), keepdim=True) + 1e-3
    weight = (1.0 + contrast * (local / mean).clamp(max=6.0)) / (1.0 + contrast)
    error = output - target
    loss = (weight * error.abs()).mean()
    levels = laplacian_pyramid(
        error
    )  # linear: the pyramid of a difference is the difference of pyramids
    loss = loss + detail * torch.stack([level.abs().mean() for level in levels]).sum()
    across = (error[..., :, 1:] - error[..., :, :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return loss + edges * (across + down) + squares * error.square().mean()


def psnr(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over all images, for colours in [-1, 1]; inf if equal."""
    error = (output.clamp(-1, 1) - target).square().mean().item()
    return 10 * math.log10(4 / error) if error else math.inf
