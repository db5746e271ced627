"""The terms as HuRef published them (arXiv 2312.04828), to lay our tables beside theirs.

Embeddings are taken as they are, norms and their gains are left out, the gate's weights are
multiplied with up's element by element, and rows are compared by the rank of their token. Where
the published code mispairs heads (grouped queries, fused layouts) ours are paired as the model
pairs them. What our own recipe does instead, and why, is in `huref.invariants.terms`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from huref.architecture.block import Attention, FeedForward, LatentAttention, Mixture
from huref.errors import AnchorError, RecipeError
from huref.invariants.anchors import Anchors
from huref.loader.vocabulary import Token

PUBLISHED = "published-1"  # the recipe's `terms`
RANK = "rank"  # the recipe's `anchors`: this, or "rank:" and a file of token ids
LAYERS = 2  # the last ones
FEWEST = 256  # ranked tokens


def ranked_anchors(vocabulary: Sequence[Token], m: int, rule: str) -> tuple[Anchors, str]:
    """The m rarest tokens, by the user's list or by the tail of the vocabulary.

    Where there are fewer, the largest power of two of them is taken, so that vocabularies of
    nearly one size are cut alike; the recipe then has to get a name and an m of its own.

    Args:
        vocabulary: all tokens.
        m: how many.
        rule: "rank" takes the last m normal tokens; "rank:FILE" the last m of a file's ids, most
            frequent first, as a JSON list or one id a line.

    Returns:
        Anchors whose strings are ranks, so that two models are compared rank by rank whatever
        the tokens are, as published; and the rule with a digest in place of the file.

    Raises:
        AnchorError: there are too few tokens even so.
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
                f"the published terms need {FEWEST} ranked tokens at least, there are {len(ids)}"
            )
        m = 2 ** (len(ids).bit_length() - 1)
    ranks = tuple(f"rank {i}".encode() for i in range(m))
    return Anchors(ranks, tuple(ids[-m:])), rule


def _read_ids(path: Path) -> tuple[list[int], str]:
    try:
        text = path.read_text("utf-8")
        ids = json.loads(text) if text.lstrip().startswith("[") else text.split()
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return [int(number) for number in ids], f"{RANK}:{digest}"
    except (OSError, ValueError, TypeError) as error:
        raise RecipeError(f"{path}: not a list of token ids ({type(error).__name__})") from error


def _as_published(ffn: FeedForward) -> FeedForward:
    return ffn if ffn.gate is None else FeedForward(ffn.up * ffn.gate, None, ffn.down)


def published_terms(
    attention: Attention | LatentAttention, ffn: FeedForward | Mixture, E: Tensor
) -> Tensor:
    """The published terms (3, m, m) of a block whose gains were not folded in.

    Norms on queries and keys are left out like all others, but not those inside latent
    attention, without which its projections do not follow each other; neither are experts
    anything that the paper covers: theirs is the mean, as in our own terms.
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
