"""HuRef's ICS as published (arXiv 2312.04828): raw terms of the last two blocks.

The paper takes the 4,096 rarest tokens of a corpus and pairs them by rank. The vocabularies here
are half as large, so the last TOKENS shared tokens are taken, paired by their strings, which is in
the method's favour.
"""

from functools import lru_cache

import torch
from torch import Tensor

from huref.invariants.published import published_terms
from scripts.rivals.weights import Weights, rows, shared_tokens

TOKENS = 512
LAYERS = 2


def published_ics(a: Weights, b: Weights) -> float:
    """Mean correlation of the three terms of the last blocks, in [-1, 1]."""
    tokens = tuple(shared_tokens(a, b)[-TOKENS:])
    x, y = (standardised_terms(model, tokens) for model in (a, b))
    return float(x @ y) / (3 * LAYERS)


@lru_cache(maxsize=256)
def standardised_terms(model: Weights, tokens: tuple[bytes, ...]) -> Tensor:
    """The terms of the last blocks, each of mean 0 and norm 1, concatenated."""
    E = rows(model, tokens)
    blocks = zip(model.attention[-LAYERS:], model.ffn[-LAYERS:], strict=True)
    terms = torch.cat([published_terms(attention, ffn, E) for attention, ffn in blocks]).flatten(1)
    centred = terms - terms.mean(dim=1, keepdim=True)
    standard: Tensor = (centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-30)).flatten()
    return standard
