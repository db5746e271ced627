"""How the anchors' embeddings relate to each other, whatever the basis of the stream is.

The Gram matrix of the centred rows, of length one each, does not change under a rotation of the
stream. Its leading directions are common to all models (frequency, case, language), so that
unrelated models correlate up to 0.9. The LEADING ones are therefore left out, and the others count
alike, each eigenvalue v as v / (v + FLAT mean).
"""

import torch
from torch import Tensor

from huref.invariants.reproducible import eigh

LEADING = 32
FLAT = 0.3


def relate_embeddings(rows: Tensor, places: list[int], m: int) -> Tensor:
    """Relations of embeddings, (m, m) float16; zero where a bucket has no anchor.

    Args:
        rows: embeddings of the anchors (n, d).
        places: the bucket of each.
        m: number of buckets.
    """
    rows = rows - rows.mean(dim=0)
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    values, vectors = eigh((rows @ rows.T).double())
    values = values.clamp(min=0)
    values = values / (values + FLAT * values.mean()).clamp(min=1e-30)
    values[-LEADING:] = 0
    related = torch.zeros(m, m, dtype=torch.float16)
    where = torch.tensor(places)
    related[where[:, None], where] = ((vectors * values) @ vectors.T).half()
    return related
