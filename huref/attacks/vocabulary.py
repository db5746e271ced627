"""Attacks on the vocabulary: other ids for the same strings, and additional strings."""

from typing import Any

import torch
from torch import Generator

from huref.attacks.editable import Editable
from huref.errors import AttackError

NEW_TOKENS = 64


def pieces(model: Editable) -> dict[str, Any]:
    """The tokenizer's ids by string. Raises AttackError where it has no such mapping."""
    vocabulary = model.tokenizer.get("model", {}).get("vocab")
    if not isinstance(vocabulary, dict):
        raise AttackError(
            "only a BPE or WordPiece tokenizer.json can be renumbered", model=model.model
        )
    return vocabulary


def permute_vocabulary(model: Editable, generator: Generator) -> None:
    """Renumber all tokens: row order[i] of the old matrices becomes row i."""
    order = torch.randperm(len(model.embedding), generator=generator)
    new_id = torch.argsort(order).tolist()
    vocabulary = pieces(model)
    for piece, old in vocabulary.items():
        vocabulary[piece] = new_id[old]
    for token in model.tokenizer.get("added_tokens") or []:
        token["id"] = new_id[token["id"]]
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if type(old := model.config.get(key)) is int and 0 <= old < len(new_id):
            model.config[key] = new_id[old]
    model.embedding, model.head = model.embedding[order], model.head[order]


def extend_vocabulary(model: Editable, generator: Generator) -> None:
    """Append new tokens in another script with random rows."""
    vocabulary = pieces(model)
    first = len(model.embedding)
    for number in range(NEW_TOKENS):
        vocabulary[chr(0x4E00 + number)] = first + number
    for name in ("embedding", "head"):
        rows = getattr(model, name)
        noise = torch.randn(NEW_TOKENS, rows.shape[1], generator=generator, dtype=torch.float64)
        setattr(model, name, torch.cat([rows, noise * rows.std()]))
