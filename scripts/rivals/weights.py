"""A small model in memory, as the rival methods read it."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from huref.architecture.block import Attention, FeedForward, Mixture
from huref.architecture.reader import ModelReader
from huref.loader.checkpoint import open_checkpoint


@dataclass(frozen=True, eq=False)
class Weights:
    """A model's tensors, without folded gains.

    Attributes:
        tensors: by published name.
        embeddings: (vocabulary, d).
        ids: a normal token's bytes -> its id.
        attention: one per block, matrices (in, out).
        ffn: one per block, matrices (in, out).
    """

    tensors: dict[str, Tensor]
    embeddings: Tensor
    ids: dict[bytes, int]
    attention: list[Attention]
    ffn: list[FeedForward | Mixture]


def read_weights(model: str) -> Weights:
    """Read a model without latent attention.

    Raises:
        HurefError: it cannot be read.
        TypeError: it has latent attention.
    """
    checkpoint = open_checkpoint(model)
    reader = ModelReader(checkpoint, fold=False)
    ids: dict[bytes, int] = {}
    for token in checkpoint.vocabulary:
        if token.kind == "normal":
            ids.setdefault(token.text, token.id)
    attention: list[Attention] = []
    for index in range(reader.block_count):
        part = reader.read_attention(index)
        if not isinstance(part, Attention):
            raise TypeError(f"{model}: block {index} has latent attention")
        attention.append(part)
    return Weights(
        tensors=checkpoint.read(checkpoint.names),
        embeddings=reader.embeddings(range(max(ids.values()) + 1)),
        ids=ids,
        attention=attention,
        ffn=[reader.read_ffn(index) for index in range(reader.block_count)],
    )


def shared_tokens(a: Weights, b: Weights) -> list[bytes]:
    """Tokens of both vocabularies, in the order of A's ids."""
    return sorted(a.ids.keys() & b.ids.keys(), key=a.ids.__getitem__)


def rows(model: Weights, tokens: Sequence[bytes]) -> Tensor:
    """Embeddings of tokens, (tokens, d)."""
    return model.embeddings[[model.ids[token] for token in tokens]]
