"""The terms as HuRef published them (arXiv 2312.04828), for comparison with published tables.

Embeddings are not whitened, norms and their gains are left out, the weights of gate and up are
multiplied element by element, and rows are compared by the rank of their token. The published code
mispairs heads (grouped queries, fused layouts); here they are paired as the model does. For the
terms of the default recipe see `huref.invariants.terms`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from huref.architecture.block import Attention, FeedForward, LatentAttention, Mixture
from huref.bounded_json import loads
from huref.errors import AnchorError, RecipeError
from huref.invariants.anchors import Anchors
from huref.loader.vocabulary import Token

PUBLISHED = "published-1"  # value of the recipe's `terms`
RANK = "rank"  # value of the recipe's `anchors`: "rank", or "rank:FILE" with a file of token ids
FEWEST = 256  # ranked tokens that are needed


def ranked_anchors(vocabulary: Sequence[Token], m: int, rule: str) -> tuple[Anchors, str]:
    """The m rarest tokens, from a file of the user's or from the end of the vocabulary.

    If there are fewer than m, the number is rounded down to a power of two, so that vocabularies
    of similar size give equal numbers; the caller has to change the recipe's name and m.

    Args:
        vocabulary: all tokens.
        m: number of tokens.
        rule: "rank" for the last m normal tokens; "rank:FILE" for the last m ids of a file, which
            lists ids by descending frequency, as a JSON list or one per line.

    Returns:
        Anchors with ranks in place of strings, because published terms are compared by rank; and
        the rule with a digest in place of the file.

    Raises:
        AnchorError: there are fewer than 256 tokens.
        RecipeError: the file is not a list of ids.
    """
    file = rule.removeprefix(RANK).removeprefix(":")
    if file:
        ids, rule = _read_ids(Path(file))
    else:
        ids = [token.id for token in vocabulary if token.kind == "normal"]
    if len(ids) < m:
        if len(ids) < FEWEST:
            raise AnchorError(
                f"the published terms need at least {FEWEST} ranked tokens, there are {len(ids)}"
            )
        m = 2 ** (len(ids).bit_length() - 1)
    ranks = tuple(f"rank {i}".encode() for i in range(m))
    return Anchors(ranks, tuple(ids[-m:])), rule


def _read_ids(path: Path) -> tuple[list[int], str]:
    try:
        text = path.read_text("utf-8")
        ids = loads(text) if text.lstrip().startswith("[") else text.split()
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return [int(number) for number in ids], f"{RANK}:{digest}"
    except (OSError, ValueError, TypeError) as error:
        raise RecipeError(f"not a list of token ids ({type(error).__name__})", file=path) from error


def _as_published(ffn: FeedForward) -> FeedForward:
    return ffn if ffn.gate is None else FeedForward(ffn.up * ffn.gate, None, ffn.down)


def published_terms(
    attention: Attention | LatentAttention, ffn: FeedForward | Mixture, E: Tensor
) -> Tensor:
    """The published terms (3, m, m) of a block read without folding gains.

    Norms are left out, including those on queries and keys. Norms inside latent attention are
    kept, because its projections are only defined with them. The paper does not cover experts; as
    in the default recipe, their mean is taken.
    """
    if isinstance(attention, Attention):
        attention = replace(attention, q_norm=None, k_norm=None, v_norm=None)
    if isinstance(ffn, Mixture):
        read = ffn.read
        shared = None if ffn.shared is None else _as_published(ffn.shared)
        ffn = Mixture(ffn.count, lambda index: _as_published(read(index)), shared)
    else:
        ffn = _as_published(ffn)
    return torch.stack([attention.scores(E), attention.write(E) @ E.T, ffn.write(E) @ E.T])
