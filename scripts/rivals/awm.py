"""AWM (arXiv 2510.06738): aligns residual dimensions by the embeddings and compares Q and K.

The cost of pairing dimension i of A with j of B is 1 - |cos(E_A[:, i], E_B[:, j])| over shared
tokens; an assignment gives a permutation and signs, which are applied to each Q and K of B. They
are compared by unbiased linear CKA over the residual dimensions (U-statistic of Song et al.,
2012). Blocks are paired by index or, at different depths, by a second assignment.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from scripts.rivals.weights import Weights, rows, shared_tokens


def align(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Matching dimensions of A and B and their signs, from embeddings (n, d) of the same tokens."""
    x, y = (e / e.norm(dim=0).clamp(min=1e-12) for e in (a.double(), b.double()))
    cosine = x.T @ y
    rows_of_a, rows_of_b = linear_sum_assignment(1 - cosine.abs().numpy())
    i, j = torch.from_numpy(rows_of_a), torch.from_numpy(rows_of_b)
    return i, j, cosine[i, j].sign()


def centred(gram: Tensor) -> Tensor:
    """Centre a Gram matrix (n, n) for the unbiased HSIC; the result has a zero diagonal."""
    n = len(gram)
    off = gram - torch.diag(gram.diagonal())
    total = off.sum(dim=0)
    result = off - (total[:, None] + total[None, :]) / (n - 2) + total.sum() / ((n - 1) * (n - 2))
    return result - torch.diag(result.diagonal())


def unbiased_cka(x: Tensor, y: Tensor) -> float:
    """Unbiased linear CKA of two matrices of n rows."""
    k, l = (centred(rows @ rows.T) for rows in (x.double(), y.double()))  # noqa: E741
    return float((k * l).sum() / (k.square().sum() * l.square().sum()).sqrt().clamp(min=1e-300))


def awm_score(a: Weights, b: Weights) -> float:
    """Mean of the CKA of Q and of K over paired blocks."""
    tokens = shared_tokens(a, b)
    i, j, sign = align(rows(a, tokens), rows(b, tokens))
    of_a = [(block.q[i], block.k[i]) for block in a.attention]
    turned = sign[:, None].float()
    of_b = [(block.q[j] * turned, block.k[j] * turned) for block in b.attention]
    scores = np.array([[mean_cka(x, y) for y in of_b] for x in of_a])
    if len(of_a) == len(of_b):
        return float(scores.diagonal().mean())
    pairs = linear_sum_assignment(-scores)
    return float(scores[pairs].mean())


def mean_cka(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Mean CKA of matching matrices."""
    return float(np.mean([unbiased_cka(x, y) for x, y in zip(a, b, strict=True)]))
