"""A model under attack whose blocks are trained to compute what they computed.

The blocks that are trained are leaves of a graph through transformers' own forward pass, so that
every family that attacks support can be trained, and nothing of its arithmetic is written again.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.nn.functional import kl_div, log_softmax

from huref.attacks.blocks import EditableBlock, store_block
from huref.attacks.editable import Editable
from huref.attacks.running import first_token, load_network, write_texts
from huref.errors import AttackError

TEXTS, LENGTH = 128, 48  # texts that a model writes itself, and tokens of a text
BATCH = 4
WARM = 0.05  # share of the steps in which the rate rises
READ = (1, 2)  # the blocks that the shipped recipes read of a model without silent blocks


@dataclass(frozen=True)
class Effort:
    """What is spent on a kind that trains.

    Attributes:
        steps: of gradient descent; 0 for the kind's own number.
        blocks: indices of the blocks that are changed, None for all; () for `READ`, where the model
            has them.
        text: a file of UTF-8 text to train on; without one the model writes its own texts.
    """

    steps: int = 0
    blocks: tuple[int, ...] | None = ()
    text: Path | None = None


class Student:
    """A model, and the blocks of it that are trained.

    Attributes:
        chosen: indices of these blocks.
        leaves: for each its weights and biases by role, float32, with gradients.

    Raises:
        AttackError: transformers is not installed, or the model has been rewritten as a mixture.
    """

    def __init__(self, model: Editable, effort: Effort):
        if model.rewrites:
            raise AttackError(
                "a mixture of experts cannot be trained", model=model.model,
                advice="name the kinds that train before upcycling and noisy-experts",
            )  # fmt: skip
        self.model = model
        self.network = load_network(model, "training")
        self.chosen = _choose(model, effort)
        self.leaves: dict[int, EditableBlock] = {
            i: _as_leaves(model.blocks[i]) for i in self.chosen
        }
        known = self.network.state_dict()
        self._name = {
            name: next(key for key in known if key == name or key.endswith("." + name))
            for name in self._stored()
        }

    def parameters(self) -> list[Tensor]:
        """All leaves."""
        parts = self.leaves.values()
        return [leaf for b in parts for leaf in (*b.weights.values(), *b.biases.values())]

    def teach(self, ids: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Logits (texts, tokens, vocabulary) and the stream after each block of the source."""
        with torch.no_grad():
            out = self.network(ids, output_hidden_states=True, use_cache=False)
        return out.logits, out.hidden_states[1:]

    def run(self, ids: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Likewise of the student, with gradients."""
        tensors = {self._name[name]: tensor for name, tensor in self._stored().items()}
        settings = {"output_hidden_states": True, "use_cache": False}
        out = torch.func.functional_call(self.network, tensors, (ids,), settings)
        return out.logits, out.hidden_states[1:]

    def write_back(self) -> None:
        """Put the trained blocks into the model."""
        for index, block in self.leaves.items():
            for role, weight in block.weights.items():
                self.model.blocks[index].weights[role] = weight.detach().double()
            for role, bias in block.biases.items():
                self.model.blocks[index].biases[role] = bias.detach().double()

    def _stored(self) -> dict[str, Tensor]:
        model, stored = self.model, dict[str, Tensor]()
        for index, block in self.leaves.items():
            stored |= store_block(model.layout, model.prefix, index, block, model.heads)
        return stored


def train(
    student: Student,
    loss_of: Callable[[Tensor], Tensor],
    effort: Effort,
    steps: int,
    rate: float,
    generator: Generator,
) -> None:
    """Train a student's leaves with Adam: linear warm-up, cosine decay; then write them back.

    Args:
        student: what is trained.
        loss_of: the loss of a batch of token ids (texts, tokens).
        effort: where the text comes from.
        steps: of training.
        rate: highest learning rate, in units of the root mean square of each leaf.
        generator: of all random numbers.
    """
    texts = _texts(student, effort, generator)
    groups = [
        {"params": [leaf], "lr": rate * max(float(leaf.detach().square().mean().sqrt()), 1e-3)}
        for leaf in student.parameters()
    ]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
    warm = max(1, round(WARM * steps))

    def schedule(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm))

    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule)
    with torch.enable_grad():
        for _ in range(steps):
            chosen = torch.randint(len(texts), (min(BATCH, len(texts)),), generator=generator)
            optimiser.zero_grad()
            torch.autograd.backward(loss_of(texts[chosen]))
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimiser.step()
            rates.step()
    student.write_back()


def divergence(taught: Tensor, logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a student from its source, in nats per token."""
    one, other = (log_softmax(part.flatten(0, 1), 1) for part in (logits, taught))
    return kl_div(one, other, log_target=True, reduction="batchmean")


def _choose(model: Editable, effort: Effort) -> tuple[int, ...]:
    """Indices of the blocks to train. Raises AttackError for one that the model does not have."""
    every = range(len(model.blocks))
    if effort.blocks is None:
        return tuple(every)
    if not effort.blocks:
        return tuple(index for index in READ if index in every) or (every[-1],)
    if beyond := [index for index in effort.blocks if index not in every]:
        raise AttackError(
            f"there is no block {beyond[0]}", model=model.model,
            advice=f"its blocks are 0 to {every[-1]}",
        )  # fmt: skip
    return tuple(dict.fromkeys(effort.blocks))


def _as_leaves(block: EditableBlock) -> EditableBlock:
    weights, biases = (
        {role: tensor.float().requires_grad_() for role, tensor in part.items()}
        for part in (block.weights, block.biases)
    )
    gains, shifts, others = (
        {name: tensor.float() for name, tensor in part.items()}
        for part in (block.gains, block.norm_biases, block.others)
    )
    return replace(
        block, weights=weights, biases=biases, gains=gains, norm_biases=shifts, others=others
    )


def _texts(student: Student, effort: Effort, generator: Generator) -> Tensor:
    """Token ids to train on, (texts, tokens)."""
    positions = student.network.config.max_position_embeddings
    length = min(LENGTH, int(positions))
    if effort.text is None:
        return write_texts(student.network, first_token(student.model), TEXTS, length, generator)
    from tokenizers import Tokenizer

    try:
        text = effort.text.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AttackError("it is no UTF-8 text that can be read", file=effort.text) from error
    tokenizer = Tokenizer.from_str(json.dumps(student.model.tokenizer))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) < length:
        raise AttackError(f"its text has fewer than {length} tokens", file=effort.text)
    return torch.tensor(ids[: len(ids) // length * length]).view(-1, length)
