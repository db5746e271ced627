"""Finds candidates for no-op blocks from a few rows of their matrices.

Appended no-op blocks (o and down zero, or another factor of what is written) do not change a
model's function. If they were kept, they would shift the blocks that a recipe counts to.
"""

from collections.abc import Iterable

from huref.architecture.resolved import ResolvedBlock, ResolvedExperts, ResolvedNorms, Stored
from huref.architecture.weights import read_roles
from huref.loader.checkpoint import Checkpoint

# The output of attention passes through these and no others.
WRITING_ROLES = ("v", "kv", "qkv", "o", "latent.kv_a", "latent.kv_b")
PROBED_ROWS = 8  # or columns, of each matrix
# Products of root mean squares; trained blocks have about 4e-4 and 1e-5.
TINY_ATTENTION = 1e-8
TINY_FFN = 1e-12


def may_be_noop(checkpoint: Checkpoint, attention: ResolvedBlock, network: ResolvedBlock) -> bool:
    """Whether a few rows of a block suggest that both of its halves write nothing.

    A block that does nothing, because one of its factors is zero or nearly zero, is always
    found; a block that is found may still turn out to do something. Of routed experts only the
    first is sampled, because in a no-op block all of them are zero.

    Args:
        checkpoint: the model.
        attention: the block that holds the attention.
        network: the block that holds the feed-forward network, usually the same one.

    Raises:
        CheckpointError: a tensor cannot be read.
    """
    heads = attention.attention.tensors if attention.attention is not None else {}
    out = _size(checkpoint, [attention.out] if attention.out is not None else [])
    attention_size = _size(checkpoint, [heads[r] for r in WRITING_ROLES if r in heads]) * out
    attention_size *= _gain_size(checkpoint, attention.norms, "attention")
    ffn_size = _size(checkpoint, _network_tensors(network)) * out
    ffn_size *= _gain_size(checkpoint, network.norms, "ffn")
    return attention_size < TINY_ATTENTION and ffn_size < TINY_FFN


def _size(checkpoint: Checkpoint, tensors: Iterable[Stored]) -> float:
    """The product of the root mean squares of some matrices' first rows."""
    product = 1.0
    for stored in tensors:
        if len(stored.shape) == 2:
            sample = checkpoint.read_sample(stored.name, PROBED_ROWS)
        else:  # the first matrix of a stack
            sample = checkpoint.read_rows(stored.name, [0])
        product *= float(sample.float().square().mean().sqrt())
    return product


def _gain_size(checkpoint: Checkpoint, norms: ResolvedNorms, half: str) -> float:
    """The product of the root mean squares of the gains of one half."""
    product = 1.0
    for place, gain in read_roles(checkpoint, norms.tensors).items():
        if place.startswith(half):
            product *= float((gain + norms.offset).square().mean().sqrt())
    return product


def _network_tensors(block: ResolvedBlock) -> Iterable[Stored]:
    """The tensors through which a block's feed-forward half writes, without shared experts."""
    if block.ffn is None:
        return ()
    network = block.ffn.routed if isinstance(block.ffn, ResolvedExperts) else block.ffn
    return network.tensors.values()
