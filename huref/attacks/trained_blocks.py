"""Blocks that were trained until they no longer resemble the source's: not exact, and not free.

Both kinds change blocks that a fingerprint reads and train the copy to predict what its source
predicts. Their price is a few percent of perplexity, which falls as more steps are spent.
"""

import torch
from torch import Generator, Tensor
from torch.nn.functional import cosine_similarity

from huref.architecture.block import Attention, FeedForward
from huref.attacks.blocks import EditableBlock
from huref.attacks.editable import Editable
from huref.attacks.student import Effort, Student, divergence, train

DISTIL_STEPS, DISTIL_RATE = 3000, 0.03
PUSH_STEPS, PUSH_RATE = 300, 0.05
STRENGTH = 1.0  # nats per token that a similarity of 1 is worth
ROWS = 256  # embedding rows between which a block's products are taken


def distil_blocks(model: Editable, generator: Generator, effort: Effort) -> None:
    """Draw blocks anew and train them to do to the residual stream what they did."""
    student = Student(model, effort)
    with torch.no_grad():
        for leaf in student.parameters():
            spread = leaf.square().mean().sqrt()
            leaf.copy_(torch.randn(leaf.shape, generator=generator) * spread)

    def loss(ids: Tensor) -> Tensor:
        (taught, wanted), (logits, found) = student.teach(ids), student.run(ids)
        total = divergence(taught, logits)
        for index in student.chosen:
            x, y = found[index], wanted[index]
            total = total + (x - y).square().mean() / (y - y.mean((0, 1))).square().mean()
        return total

    train(student, loss, effort, effort.steps or DISTIL_STEPS, DISTIL_RATE, generator)


def push_away(model: Editable, generator: Generator, effort: Effort) -> None:
    """Follow the gradient away from the source's weights, at the source's predictions."""
    student = Student(model, effort)
    rows = torch.randperm(len(model.embedding), generator=generator)[:ROWS]
    E = _orthonormal(model.embedding[rows]).float()
    source = {i: _products(student.leaves[i], model.heads, E).detach() for i in student.chosen}
    units = {
        i: [unit.detach().clone() for unit in _units(student.leaves[i])] for i in student.chosen
    }

    def loss(ids: Tensor) -> Tensor:
        total = divergence(student.teach(ids)[0], student.run(ids)[0])
        for index in student.chosen:
            block = student.leaves[index]
            alike = _correlations(source[index], _products(block, model.heads, E)).mean()
            pairs = zip(_units(block), units[index], strict=True)
            cosines = [cosine_similarity(x, y, dim=0).square().mean() for x, y in pairs]
            both = alike + torch.stack(cosines).mean()
            total = total + STRENGTH * both / (2 * len(student.chosen))
        return total

    train(student, loss, effort, effort.steps or PUSH_STEPS, PUSH_RATE, generator)


def _orthonormal(rows: Tensor) -> Tensor:
    """The polar factor of centred rows, (n, d): rows of one length, as unlike as they can be."""
    left, _, right = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    factor: Tensor = left @ right
    return factor


def _products(block: EditableBlock, heads: int, E: Tensor) -> Tensor:
    """What attention compares, what it writes and what the network writes, (3, n, n)."""

    def read(role: str, half: str) -> Tensor:
        gain = block.gains.get(half)
        weight = block.weights[role]
        return weight if gain is None else gain[:, None] * weight

    q, k, v = (read(role, "attention") for role in ("q", "k", "v"))
    attention = Attention(q, k, v, block.weights["o"], heads, block.kv_heads)
    gate = read("gate", "ffn") if "gate" in block.weights else None
    network = FeedForward(read("up", "ffn"), gate, block.weights["down"])
    written = [attention.write(E) @ E.T, network.write(E) @ E.T]
    return torch.stack([attention.scores(E), *written])


def _units(block: EditableBlock) -> list[Tensor]:
    """What each hidden unit reads and writes, (d, units) each."""
    down = block.weights["down"].T
    return [*(block.weights[role] for role in ("gate", "up") if role in block.weights), down]


def _correlations(x: Tensor, y: Tensor) -> Tensor:
    """Correlations of products (3, n, n), at least 0: opposite products are as alike as equal."""
    x, y = (part.flatten(1) - part.flatten(1).mean(1, keepdim=True) for part in (x, y))
    return cosine_similarity(x, y, dim=1).abs()
