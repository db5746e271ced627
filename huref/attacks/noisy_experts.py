"""A dense model disguised as a mixture whose experts are all active and whose noise cancels."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from huref.attacks.editable import Editable
from huref.attacks.upcycling import DENSE, EXPERTS, MixtureFormat, find_mixture


def add_noisy_experts(model: Editable, generator: Generator) -> None:
    """Write each network as four active experts with permuted units.

    Noise in their down projections has the mean zero, and a router of zeros weighs all alike.
    """
    mixture = find_mixture(model)
    assert mixture is not None
    loud = model.raise_noise()
    spreads = [loud * block.spreads["down"] for block in model.blocks]
    seed = int(torch.randint(2**31, (1,), generator=generator))

    def rewrite(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return _as_experts(tensors, mixture, spreads, torch.Generator().manual_seed(seed))

    model.rewrites.append(rewrite)
    settings: dict[str, Any] = {
        "model_type": mixture.model_type,
        "architectures": [mixture.architecture],
        "num_experts_per_tok": EXPERTS,
        "moe_intermediate_size": len(model.blocks[0].weights["down"]),
        "sliding_window": model.config.get("sliding_window"),
    }
    model.config |= mixture.config | settings


def _as_experts(
    tensors: dict[str, Tensor],
    mixture: MixtureFormat,
    spreads: Sequence[float],
    generator: Generator,
) -> dict[str, Tensor]:
    rewritten: dict[str, Tensor] = {}
    networks: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match: re.Match[str] | None = DENSE.fullmatch(name)
        if match is None:
            rewritten[name] = tensor
        else:
            networks.setdefault(match["block"], {})[match["role"]] = tensor
    for (block, network), spread in zip(networks.items(), spreads, strict=True):
        down = network["down"]  # (d, units)
        noise = torch.randn(EXPERTS, *down.shape, generator=generator, dtype=torch.float64)
        noise *= spread * down.any(1, keepdim=True)  # unwritten dimensions may be read loudly
        noise -= noise.mean(0)
        rewritten[block + mixture.router] = torch.zeros(EXPERTS, len(down), dtype=torch.float64)
        for expert in range(EXPERTS):
            order = torch.randperm(down.shape[1], generator=generator)
            parts = {
                "gate": network["gate"][order],
                "up": network["up"][order],
                "down": (down + noise[expert])[:, order],
            }
            for role, tensor in parts.items():
                name = mixture.expert.format(e=expert, role=mixture.roles[role])
                rewritten[block + name] = tensor
    return rewritten
