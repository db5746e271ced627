"""Random factors and linear maps for the attacks."""

import torch
from torch import Generator, Tensor


def draw_uniform(size: int, generator: Generator, low: float = 0.5, high: float = 2.0) -> Tensor:
    """Uniform numbers between two bounds, (size,) float64."""
    return low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)


def draw_orthogonal(size: int, generator: Generator) -> Tensor:
    """A random orthogonal matrix, (size, size) float64."""
    noise = torch.randn(size, size, generator=generator, dtype=torch.float64)
    q: Tensor = torch.linalg.qr(noise)[0]
    return q
