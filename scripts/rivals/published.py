"""HuRef's ICS as published (arXiv 2312.04828): raw terms of the last two blocks.

The paper takes the 4,096 rarest tokens of a corpus and pairs them by rank; our vocabularies are
half as large, so it is the last TOKENS of those that both models hold, paired by their strings,
which can only help it.
"""

import torch

from huref.invariants.published import published_terms
from huref.invariants.terms import pearson
from rivals.weights import Weights, rows, shared_tokens

TOKENS = 512
LAYERS = 2


def published_ics(a: Weights, b: Weights) -> float:
    """Mean correlation of the three terms of the last blocks, in [-1, 1]."""
    tokens = shared_tokens(a, b)[-TOKENS:]
    terms = []
    for model in (a, b):
        E = rows(model, tokens)
        blocks = zip(model.attention[-LAYERS:], model.ffn[-LAYERS:], strict=True)
        terms.append(torch.stack([published_terms(attention, ffn, E) for attention, ffn in blocks]))
    return float(pearson(*terms).mean())
