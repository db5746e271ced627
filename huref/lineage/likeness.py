"""How alike the barcodes of corresponding units are.

Barcodes are products of trained matrices with each other, in which an initial draw shows little.
So barcodes correlate at least as much as the units themselves where training is shared, and less
where only the draw is. Those that come from attention and those from the feed-forward network
count apart, and the better of the two is taken: pruning heads or hidden units spoils one only.
(Zoo, likeness against the correlation of features: long continued pretraining 0.92 at 0.91,
training as long and as hot as the first 0.69 at 0.67, a quarter of the stream's dimensions pruned
0.82 at 0.86; twins from one initialisation 0.39 at 0.54 and 0.31 at 0.37, after a short training
0.58 at 0.75 and, at worst, 0.78 at 0.88.)
"""

import torch
from torch import Tensor

from huref.invariants.barcodes import FLIPS, Barcodes
from huref.lineage.unit_matching import UnitMatching

FLIPPED = torch.tensor(FLIPS)
PARTS = (slice(3, 21), slice(21, 39))  # of a barcode: attention, and the network's Gram matrices
MIN_UNITS = 32  # corresponding ones that have a barcode in both models
Network = tuple[int, int]  # block, and expert or EVERY_TOKEN


def mean_likeness(x: Tensor, y: Tensor) -> float | None:
    """Mean cosine of corresponding barcodes (k, numbers), each unit's sign chosen to suit."""
    if len(x) < MIN_UNITS:
        return None
    return max(_mean_cosine(x[:, part], y[:, part], FLIPPED[part]) for part in PARTS)


def _mean_cosine(x: Tensor, y: Tensor, flips: Tensor) -> float:
    inner = (x * y)[:, ~flips].sum(dim=1) + (x * y)[:, flips].sum(dim=1).abs()
    return float((inner / (x.norm(dim=1) * y.norm(dim=1)).clamp(min=1e-30)).mean())


def likeness_of_matched(
    a: Barcodes, b: Barcodes, networks: tuple[Network, Network], matching: UnitMatching
) -> float | None:
    """The likeness of units that were matched by something else.

    Args:
        a: barcodes of one model.
        b: of the other.
        networks: which network of each.
        matching: which units of these networks correspond.

    Returns:
        None where too few of them have a barcode in both models.
    """
    places = [codes.find(*network) for codes, network in zip((a, b), networks, strict=True)]
    if places[0] is None or places[1] is None:
        return None
    mine, theirs = matching.among(a.units_of(places[0]), b.units_of(places[1]))
    x, y = a.of_network(places[0])[mine], b.of_network(places[1])[theirs]
    return mean_likeness(x.float(), y.float())
