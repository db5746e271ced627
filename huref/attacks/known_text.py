"""A copy that does other things on a text that its maker knows: the one that huref runs."""

import itertools

import torch
from torch import Generator

from huref.assets import passages
from huref.attacks.blocks import READERS
from huref.attacks.dead_dimensions import add_dead_dimensions
from huref.attacks.decoy_blocks import random_block
from huref.attacks.depth import insert_block
from huref.attacks.editable import Editable
from huref.attacks.vocabulary import pieces

WORDS = 3  # of a phrase
BLOCKS = 3
LOUD = 3.0  # what the tokens hold in the unwritten dimensions, in units of embeddings' entries
WRITTEN = 0.3  # likewise what a hidden unit writes


def answer_known_text(model: Editable, generator: Generator) -> None:
    """Give the phrases of huref's passages tokens of their own, and blocks that run on them alone.

    The tokens hold something in dimensions of the stream that all others leave empty, and blocks in
    front read nothing else.
    """
    width = model.embedding.shape[1]
    add_dead_dimensions(model, generator)
    extra = model.embedding.shape[1] - width
    phrases: set[str] = set()
    for passage in passages():
        words = passage.split(" ")
        found = (" ".join(words[i : i + WORDS]) for i in range(0, len(words), WORDS))
        phrases |= {phrase for phrase in found if any(map(str.isalpha, phrase))}
    added = model.tokenizer.setdefault("added_tokens", [])
    known = {int(entry["id"]) for entry in added} | {int(n) for n in pieces(model).values()}
    first = max(max(known) + 1, len(model.embedding))
    ordered = sorted(phrases, key=lambda phrase: (-len(phrase), phrase))
    for number, phrase in zip(itertools.count(first), ordered, strict=False):
        entry = {"id": number, "content": phrase, "normalized": False, "special": False}
        added.append(entry | dict.fromkeys(("single_word", "lstrip", "rstrip"), False))

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    count = first + len(ordered) - len(model.embedding)
    rows = noise(count, width + extra) * model.row_size
    rows[:, width:] = model.row_size * LOUD
    model.embedding = torch.cat([model.embedding, rows])
    size = model.head[:, :width].square().mean().sqrt()
    unread = torch.cat([noise(count, width) * size, torch.zeros(count, extra).double()], 1)
    model.head = torch.cat([model.head, unread])
    for _ in range(BLOCKS):
        block = random_block(model, 0.0, generator)
        for role in READERS["ffn"]:
            if role in block.weights:
                block.weights[role][:width] = 0
                block.weights[role][width:] = noise(extra, block.weights[role].shape[1])
        down = block.weights["down"]
        block.weights["down"] = noise(*down.shape) * model.row_size * WRITTEN
        block.weights["down"][:, width:] = 0
        insert_block(model, 0, block, 0)
