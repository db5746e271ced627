"""The dtype of convolutions in training."""

import torch


def fast_dtype(device: torch.device) -> torch.dtype:
    """Bfloat16 where the device multiplies it natively, else float32.

    On a CPU with AVX2 alone a 3 x 3 convolution of 64 to 64 channels at 64 px, with its gradients,
    took 1.65 s of one core for 8 images in bfloat16 and 0.20 s in float32.
    """
    native = device.type != "cpu" or (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return torch.bfloat16 if native else torch.float32
