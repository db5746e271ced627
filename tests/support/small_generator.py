"""A StyleGAN2 generator that is small enough for tests."""

import torch

from huref.decoder.stylegan2 import Generator


def small_generator(z_dim: int = 24, seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    generator = Generator(z_dim, 16, 2, {4: 12, 8: 10, 16: 8}, lr_mul=0.5, clamp=256.0)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith(("bias", "noise_strength")):
                parameter.add_(0.3 * torch.randn_like(parameter))
        generator.mapping.w_avg.normal_()
    return generator.eval().requires_grad_(False)
