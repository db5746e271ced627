"""Heads that attend to the first token alone, where their values are zero.

Row vectors: x @ W. Two new dimensions of the residual stream hold a small constant: one in every
embedding, one in that of the first token alone. New queries read the one and new keys the other,
in the rotary plane that turns slowest, so that every position attends to the first token. Its
state at each block is the same in every text; values are orthogonal to it.
"""

from itertools import count

import torch
from torch import Generator, Tensor

from huref.attacks.blocks import READERS, WRITERS
from huref.attacks.editable import LESS_LOUD, Editable
from huref.attacks.padding import append_group, random_group, set_heads
from huref.attacks.running import first_token, load_network

ONES, FIRST = 0, 1  # the new dimensions
CONSTANT = 1e-2  # in units of the embeddings' spread
SCORE = 60.0  # of the first token, at least, before the softmax
LARGEST = 6e4  # weight that float16 holds
TEXTS, LENGTH = 4, 32  # random ids, from which the stream's size is told


def add_sink_heads(model: Editable, generator: Generator) -> None:
    """Add a random group to every block that attends to the first token alone."""
    states, sizes = _run(model, generator)
    width = model.embedding.shape[1]
    heads = model.heads + model.heads // model.blocks[0].kv_heads
    new = next(n for n in count(2) if (width + n) % heads == 0)
    scale = (width / (width + new)) ** 0.5
    first = first_token(model)
    plane = max(model.rotary // 2 - 1, 0)  # of all blocks; the first is about to get more heads
    constant = CONSTANT * model.row_size
    extra = torch.zeros(len(model.embedding), new, dtype=torch.float64)
    extra[:, ONES] = constant
    extra[first, FIRST] = constant
    model.untie()
    if str(model.config.get("model_type", "")).startswith("gemma"):
        model.embedding = model.embedding * scale  # they are multiplied by sqrt(width) on entry
    model.embedding = torch.cat([model.embedding, extra], 1)
    model.head = torch.cat([model.head, torch.zeros_like(extra)], 1)
    model.gain = _longer(model.gain * scale, new)
    for block, state, size in zip(model.blocks, states, sizes, strict=True):
        for place in block.gains:
            block.gains[place] = _longer(block.gains[place] * scale, new)
        for role in (*READERS["attention"], *READERS["ffn"]):
            if role in block.weights:
                zeros = torch.zeros(new, block.weights[role].shape[1], dtype=torch.float64)
                block.weights[role] = torch.cat([block.weights[role], zeros])
        for role in WRITERS:
            zeros = torch.zeros(len(block.weights[role]), new, dtype=torch.float64)
            block.weights[role] = torch.cat([block.weights[role], zeros], 1)
        group = random_group(model, block, generator)
        head_dim = group["k"].shape[1]
        # The norm divides the constant by the stream's size, here and at the first token.
        own = float(state.square().mean().sqrt())
        weight = (SCORE * head_dim**0.5 * size * own) ** 0.5 / constant
        for role, row in (("q", ONES), ("k", FIRST)):
            group[role] *= 0.1  # what else queries and keys read hardly counts beside the constant
            group[role][width:] = 0
            group[role][width + row, plane::head_dim] = min(weight, LARGEST)
        group["v"][width:] = 0
        reads = block.gains["attention"][:width] * state
        for role in ("q", "k", "v"):
            if role in block.biases:
                group[f"{role}_bias"] *= 0.0
        group["v"][:width] -= torch.outer(reads, reads @ group["v"][:width]) / reads.square().sum()
        group["o"][:, width:] = 0
        append_group(block, group, group["o"] * LESS_LOUD)
    set_heads(model)
    model.config["hidden_size"] = width + new
    model.config["rms_norm_eps"] = float(model.config["rms_norm_eps"]) * scale**2


def _longer(gain: Tensor, new: int) -> Tensor:
    return torch.cat([gain, torch.ones(new, dtype=torch.float64)])


def _run(model: Editable, generator: Generator) -> tuple[list[Tensor], list[float]]:
    """What each block reads at the first token, (d,) each, and the size of what it reads later.

    The model is run by transformers in float64; the size is the largest root mean square.
    """
    network = load_network(model, "sink-heads", torch.float64)
    ids = torch.randint(len(model.embedding), (TEXTS, LENGTH), generator=generator)
    ids[:, 0] = first_token(model)
    with torch.no_grad():
        out = network(ids, output_hidden_states=True)
    read: list[Tensor] = list(out.hidden_states[: len(model.blocks)])
    sizes = [float(x[:, 1:].square().mean(dim=2).sqrt().max()) for x in read]
    return [x[0, 0] for x in read], sizes
