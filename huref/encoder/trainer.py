"""One training step of the encoder, with the networks and optimisers that it updates."""

import math
from collections import deque
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from huref.encoder import losses
from huref.encoder.batches import Batch
from huref.encoder.config import TrainingConfig
from huref.encoder.metrics import FiguresOfMerit
from huref.encoder.network import PaperCNN, build_network

CURVES = ("step", "loss", "graded", "robust", "strangers", "adversarial", "gap", "stranger_cosine")


class Trainer:
    """The networks and optimisers of a run, and one step of it."""

    def __init__(self, config: TrainingConfig, device: str) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.device = device
        self.network = build_network(config.architecture).to(device)
        self.discriminator = losses.Discriminator().to(device)
        scalars = [p for p in self.network.parameters() if p.numel() < 1024]
        weights = [p for p in self.network.parameters() if p.numel() >= 1024]
        groups = [
            {"params": weights, "lr": config.rate},
            {"params": scalars, "lr": config.scalar_rate or config.rate},
        ]
        self.optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.opponent = torch.optim.Adam(self.discriminator.parameters(), lr=1e-4)
        self.figures = FiguresOfMerit()
        self._memory: deque[Tensor] = deque(maxlen=config.loss.memory)
        self.step = 0

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as tensors, numbers and strings."""
        return {
            "config": self.config.digest,
            "step": self.step,
            "network": self.network.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "opponent": self.opponent.state_dict(),
            "figures": self.figures.state(),
            "memory": list(self._memory),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Load a saved state."""
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.opponent.load_state_dict(state["opponent"])
        self.figures.restore(state["figures"])
        self._memory.extend(state["memory"])

    def advance(self, batch: Batch) -> dict[str, float]:
        """Train the discriminator, then the encoder, on one batch; return a row of the curves."""
        weights = self.config.loss
        self.network.train()
        parts = [batch.base, batch.relative]
        if batch.accident is not None:
            parts.append(batch.accident)
        latents = self._encode(torch.cat(parts))
        base, relative, *accident = torch.split(latents, len(batch.base))
        unrelated = losses.strangers(latents, families=len(batch.base))
        negatives = [unrelated, *(losses.across(latents, earlier) for earlier in self._memory)]
        zero = latents.new_zeros(())
        adversarial = self._adversarial(latents) if weights.adversarial else zero
        robust = (1 - cosine_similarity(base, accident[0])).mean() if accident else zero
        if weights.paper:
            graded = losses.paper_contrast(base, relative, (weights.paper[0], weights.paper[1]))
            loss = graded
        else:
            graded = losses.graded(base, relative, batch.rho)
            loss = (
                weights.graded * graded
                + weights.robust * robust
                + weights.strangers * torch.cat(negatives).square().mean()
                + weights.moments * losses.moments(latents)
            )
        loss = loss + weights.adversarial * adversarial
        self._set_rates()
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        self.step += 1
        self._memory.append(latents.detach())
        self.figures.add(batch.rho, cosine_similarity(base, relative), unrelated)
        return {
            "step": self.step,
            "loss": float(loss.detach()),
            "graded": float(graded.detach()),
            "robust": float(robust.detach()),
            "strangers": float(unrelated.detach().square().mean()),
            "adversarial": float(adversarial.detach()),
            "gap": self.figures.gap,
            "stranger_cosine": self.figures.stranger_cosine,
        }

    def _encode(self, terms: Tensor) -> Tensor:
        """Latents (n, 512): in one pass for batch normalisation, else one by one to save memory."""
        if isinstance(self.network, PaperCNN):
            return self.network.forward(terms)
        return torch.cat([self.network.forward(one) for one in torch.split(terms, 1)])

    def _adversarial(self, latents: Tensor) -> Tensor:
        """Train the discriminator on detached latents; return the encoder's adversarial loss."""
        generator = torch.Generator(self.device)
        generator.manual_seed(self.config.seed * 1_000_003 + self.step + 500_009)
        normal = torch.randn(latents.shape, generator=generator, device=self.device)
        self.opponent.zero_grad()
        torch.autograd.backward(self.discriminator.loss(normal, latents.detach()))
        self.opponent.step()
        return self.discriminator.fooling(latents)

    def _set_rates(self) -> None:
        fall = 0.5 * (1 + math.cos(math.pi * self.step / self.config.steps))
        rates = self.config.rate, self.config.scalar_rate or self.config.rate
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * fall
