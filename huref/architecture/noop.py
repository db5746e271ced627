"""Blocks that do nothing, told from a few rows of their matrices.

Appended no-op blocks (o and down zero, or another factor of what is written) leave a model's
function as it is; left in, they would move the blocks that a recipe counts to.
"""

from dataclasses import replace

from huref.architecture.layout import Layout, Names, Network, Norms, tensor_fields
from huref.architecture.weights import read_part
from huref.loader.checkpoint import Checkpoint

# What a block writes passes through these and no others.
WRITING_ROLES = ("v", "kv", "qkv", "o", "latent.kv_a", "latent.kv_b")
PROBED_ROWS = 8  # or columns, of each matrix, to see cheaply whether a block might do nothing
# Products of root mean squares; trained blocks have about 4e-4 and 1e-5.
TINY_ATTENTION = 1e-8
TINY_FFN = 1e-12


def may_be_noop(checkpoint: Checkpoint, attention: Layout, network: Layout) -> bool:
    """Whether a few rows of a block suggest that both of its halves write nothing.

    Reads some rows only. A block that does nothing, because one of its factors is zero or as good
    as zero, is always found; one that is found may still turn out to do something. Of experts the
    first is looked at: they would all have to be zero.

    Args:
        checkpoint: where the tensors are.
        attention: the resolved block that holds the attention.
        network: the one that holds the feed-forward network, mostly the same.

    Raises:
        CheckpointError: a tensor cannot be read.
    """
    heads = tensor_fields(attention.attention)
    writing = [heads[role] for role in WRITING_ROLES if role in heads]
    out = _size_of(checkpoint, [attention.out])
    attention_size = _size_of(checkpoint, writing) * out
    attention_size *= _size_of_gains(checkpoint, attention.norms, "attention")
    ffn_size = _size_of(checkpoint, list(tensor_fields(_network(network)).values())) * out
    ffn_size *= _size_of_gains(checkpoint, network.norms, "ffn")
    return attention_size < TINY_ATTENTION and ffn_size < TINY_FFN


def _size_of(checkpoint: Checkpoint, tensors: list[Names]) -> float:
    """The product of the root mean squares of some matrices' first rows."""
    product = 1.0
    for name in (names[0] for names in tensors if names):
        if len(checkpoint.entry(name).shape) == 2:
            sample = checkpoint.read_sample(name, PROBED_ROWS)
        else:  # a stack: its first expert
            sample = checkpoint.read_rows(name, [0])
        product *= float(sample.float().square().mean().sqrt())
    return product


def _size_of_gains(checkpoint: Checkpoint, norms: Norms, half: str) -> float:
    product = 1.0
    for place, gain in read_part(checkpoint, norms).items():
        if place.startswith(half):
            product *= float((gain + norms.offset).square().mean().sqrt())
    return product


def _network(block: Layout) -> Network | None:
    """What a block's feed-forward half writes through, without shared experts."""
    if block.experts is not None and block.experts.down:
        return replace(block.experts, shared=None, scale=())
    return block.ffn
