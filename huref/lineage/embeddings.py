"""Whether the embeddings of two models come from one model, apart from their blocks."""

import torch

from huref.invariants.record import Record
from huref.lineage.similarity import MIN_SHARED

# Relatives of the zoo have at least 0.94, twins 0.40, unrelated public models 0.31, others 0.04.
ALIKE = 0.7


def compare_embeddings(a: Record, b: Record) -> float | None:
    """Correlation of the relations between the embeddings of the shared anchors.

    Returns:
        None where a record lacks them, or fewer than MIN_SHARED anchors are shared.
    """
    if a.function is None or b.function is None or a.anchors is None or b.anchors is None:
        return None
    shared = a.anchors.shared(b.anchors)
    x, y = a.function.embeddings, b.function.embeddings
    if len(shared) < MIN_SHARED or x.shape != y.shape or not len(x):
        return None
    upper = torch.triu_indices(len(shared), len(shared), 1)
    pair = torch.stack([part[shared][:, shared][*upper].float() for part in (x, y)])
    found = float(torch.corrcoef(pair)[0, 1])
    return found if found == found else None  # NaN where one is constant
