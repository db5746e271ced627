"""The training loop of all models of the zoo."""

import math
from collections.abc import Callable, Iterator

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from scripts.zoo.optimisers import OPTIMISERS

Loss = Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]


def order_batches(windows: torch.Tensor, batch: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless batches (batch, context); every epoch has all windows in a new order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(windows), generator=generator)
        for start in range(0, len(order) - batch + 1, batch):
            yield windows[order[start : start + batch]]


def token_loss(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy in nats, computed under bfloat16 autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=tokens, use_cache=False).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())


def train(
    model: torch.nn.Module,
    batches: Iterator[torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    warmup: float,
    weight_decay: float,
    label: str,
    optimiser: str = "adamw",
    loss_of: Loss = token_loss,
) -> None:
    """Train the trainable parameters in place: linear warm-up, cosine decay to zero.

    `loss_of` returns the loss of a batch (batch, context); `warmup` is a fraction of the steps;
    `optimiser` is a key of `scripts.zoo.optimisers.OPTIMISERS`.
    Gains and biases (one-dimensional) have no weight decay.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = OPTIMISERS[optimiser](groups, learning_rate)
    warm = max(1, round(warmup * steps))

    def schedule(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    model.train()
    progress = tqdm(range(steps), desc=label, disable=None)
    for _ in progress:
        loss = loss_of(model, next(batches))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def exact_token_loss(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """The same in float32, which most CPUs compute faster than they emulate bfloat16."""
    logits = model(input_ids=tokens, use_cache=False).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def mean_loss(model: torch.nn.Module, windows: torch.Tensor, batch: int = 8) -> float:
    """Mean next-token loss in nats over windows (n, context)."""
    model.eval()
    losses = [token_loss(model, chunk).item() * len(chunk) for chunk in torch.split(windows, batch)]
    return sum(losses) / len(windows)
