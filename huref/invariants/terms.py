"""The three invariant terms of a block: products of its weights in token space.

Row vectors throughout: x @ W. E is the (m, d) matrix of whitened anchor embeddings.

    qk  = sum over heads (E W_q) (E W_k)^T
    vo  = sum over heads (E W_v) (W_o E^T)
    ffn = ((E W_up) * (E W_gate)) W_down E^T

Every index of a hidden basis (head, hidden unit, residual stream) is summed over, so a change of
basis that preserves the model's function preserves the terms. HuRef (arXiv 2312.04828) introduced
the products. Unlike there, the gate is multiplied after projection to token space, because an
element-wise product of weights does not commute with a rotation of the residual stream. See
docs/maths.md, Terms and Whitening.
"""

import torch
from torch import Tensor

from huref.architecture.block import Block, FeedForward, Mixture, SelfAttention
from huref.invariants.reproducible import eigh

TERMS = ("qk", "vo", "ffn")
DAMPING = 0.1  # of the mean squared singular value; bounds the effect of near-duplicate rows


def whiten(embeddings: Tensor, damping: float = DAMPING) -> Tensor:
    """Centre the anchors' embeddings and replace them by their damped polar factor.

    Singular value s becomes s / sqrt(s^2 + damping * mean s^2). The embeddings of unrelated models
    that were trained on similar text correlate; their whitened embeddings do not.

    Args:
        embeddings: (m, d), any real dtype. Zero rows (empty buckets) stay zero.
        damping: factor of the mean squared singular value under the root.

    Returns:
        (m, d) float32.
    """
    rows = embeddings.double()
    filled = rows.abs().sum(dim=1) > 0
    centred = rows[filled] - rows[filled].mean(dim=0)
    gram = centred @ centred.T  # (n, n): its eigenvalues are the squared singular values
    squared, vectors = eigh(gram)
    squared = squared.clamp(min=0)
    mean_squared = squared.sum() / min(centred.shape)
    floor = torch.finfo(torch.float64).tiny  # rows that are all equal become zero
    scale = (squared + damping * mean_squared + floor).rsqrt()
    whitened = torch.zeros_like(rows)
    whitened[filled] = (vectors * scale) @ (vectors.T @ centred)
    return whitened.float()


def flatten(terms: Tensor, damping: float = DAMPING) -> Tensor:
    """Replace each term by its damped polar factor, which makes its singular values nearly equal.

    Singular value s becomes s / sqrt(s^2 + damping * mean s^2), as in `whiten`. Most of the energy
    of a trained term is in a few directions (above all token frequency) that unrelated models
    share. Measured on two bases of equal shape, text and data order but different seeds: their
    ICS falls from 0.17 to 0.04, that of a fine-tune stays 0.99, that of long continued
    pretraining 0.79.

    Args:
        terms: (..., m, m), any real dtype. Zero rows and columns (empty buckets) stay zero.
        damping: factor of the mean squared singular value under the root.

    Returns:
        (..., m, m) float32.
    """
    T = terms.double()
    # Where T = U S V^T, (T T^T + c)^(-1/2) T = U (S^2 + c)^(-1/2) S V^T.
    squared, vectors = eigh(T @ T.mT)
    squared = squared.clamp(min=0)
    mean_squared = squared.mean(dim=-1, keepdim=True)
    scale = (squared + damping * mean_squared).rsqrt()
    scale = torch.where(mean_squared > 0, scale, 0.0)  # a zero term stays zero
    # Double precision is needed to tell weak directions from rounding, not to apply their scales.
    polar: Tensor = ((vectors * scale[..., None, :]) @ vectors.mT).float()
    return polar @ terms.float()


def attention_terms(attention: SelfAttention, E: Tensor) -> tuple[Tensor, Tensor]:
    """The qk and vo terms, each (m, m)."""
    return attention.scores(E), attention.write(E) @ E.T


def ffn_term(ffn: FeedForward | Mixture, E: Tensor) -> Tensor:
    """The ffn term, (m, m); for a mixture the mean over its experts plus the shared experts."""
    return ffn.write(E) @ E.T


def block_terms(block: Block, E: Tensor) -> Tensor:
    """All terms of a block, (3, m, m), in the order of `TERMS`."""
    return torch.stack([*attention_terms(block.attention, E), ffn_term(block.ffn, E)])


def standardise(terms: Tensor) -> Tensor:
    """Scale each (m, m) term to mean 0 and standard deviation 1; a constant term becomes 0.

    Args:
        terms: (..., m, m).
    """
    centred = terms - terms.mean(dim=(-2, -1), keepdim=True)
    deviation = centred.square().mean(dim=(-2, -1), keepdim=True).sqrt()
    return centred / deviation.clamp(min=torch.finfo(terms.dtype).tiny)


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation over the last two axes, (..., m, m) twice -> (...) float64.

    The correlation with a constant term is defined as 0.
    """
    x, y = (t.double() - t.double().mean(dim=(-2, -1), keepdim=True) for t in (a, b))
    norm = (x.square().sum(dim=(-2, -1)) * y.square().sum(dim=(-2, -1))).sqrt()
    inner = (x * y).sum(dim=(-2, -1))
    return torch.where(norm > 0, inner / norm.clamp(min=1e-300), torch.zeros_like(inner))
