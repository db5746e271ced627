"""Training objectives: next token, preference and distillation."""

import copy
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, logsigmoid

from scripts.zoo.plan import Plan
from scripts.zoo.relations import load
from scripts.zoo.training import BFLOAT16, Loss, exact_token_loss, token_loss

BETA = 0.1  # beta of direct preference optimisation
CORRUPTED = 0.15  # share of a rejected text's tokens that come from elsewhere in the batch


def next_token(plan: Plan, model: torch.nn.Module) -> Loss:
    """Next-token cross-entropy, in the precision that the config names."""
    return exact_token_loss if plan.spec.get("precision") == "float32" else token_loss


def corrupt(tokens: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Replace some tokens (batch, context) by tokens from elsewhere in the batch."""
    shuffled = tokens.flatten()[torch.randperm(tokens.numel(), generator=generator)]
    changed = torch.rand(tokens.shape, generator=generator) < CORRUPTED
    return torch.where(changed, shuffled.reshape(tokens.shape), tokens)


def logits_of(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Logits (batch, context, vocabulary) in float32, computed as in `token_loss`."""
    with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
        logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits.float()


def log_probability(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability in nats of each text, (batch,), from tokens (batch, context)."""
    logits = logits_of(model, tokens)[:, :-1].transpose(1, 2)
    return -cross_entropy(logits, tokens[:, 1:], reduction="none").sum(1)


def preference(plan: Plan, model: torch.nn.Module) -> Loss:
    """Prefer real texts to corrupted ones (DPO, Rafailov et al., 2023, equation 7)."""
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(plan.spec["data_seed"])

    def loss(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        both = torch.cat([tokens, corrupt(tokens, generator)])
        gained = log_probability(model, both) - log_probability(reference, both)
        chosen, rejected = gained.chunk(2)
        return -logsigmoid(BETA * (chosen - rejected)).mean()

    return loss


def distillation(plan: Plan, model: torch.nn.Module) -> Loss:
    """Match the teacher's distribution over next tokens; the teacher is frozen."""
    teacher = load(plan.out / plan.spec["teacher"])[0].eval().requires_grad_(False)

    def loss(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        one, other = (
            log_softmax(logits_of(network, tokens).flatten(0, 1), 1) for network in (model, teacher)
        )
        return kl_div(one, other, log_target=True, reduction="batchmean")

    return loss


OBJECTIVES: dict[str, Callable[[Plan, torch.nn.Module], Loss]] = {
    "next-token": next_token,
    "preference": preference,
    "distillation": distillation,
}
