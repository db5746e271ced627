"""Which of very many pairs of models may share an origin, by one matrix product over records.

Units of models that began as one draw keep their place, and barcodes know them without tokens. Let
X and Y (n, p) hold the barcodes of the same n sampled units, every number centred over them. If
the models are independent, the units of Y could be numbered in any way alike, and over all n!
numberings

    <X, Y> has mean 0 and variance n^2 / (n - 1) <C_X, C_Y>,      C_X = X^T X / n

(the sum of the squares of all x_i . y_j over n - 1). So <X, Y> in standard deviations is compared
with a threshold; all pairs cost two matrix products. Nothing is said of networks of other sizes or
of units that were renumbered. What is found here is tested as any pair is.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from huref.invariants.barcodes import FLIPS, sampled_units
from huref.invariants.record import Record

SURPRISE = 6.0  # standard deviations; a normal variable exceeds them once in a billion
STEADY = [number for number, flips in enumerate(FLIPS) if not flips]  # of one sign


def screen_pairs(records: Sequence[Record]) -> set[tuple[int, int]]:
    """Pairs of records (i, j), i < j, of which any two of the recipe's blocks look related."""
    by_size: dict[int, list[tuple[int, Tensor]]] = {}
    for index, record in enumerate(records):
        for size, codes in _sampled_codes(record):
            by_size.setdefault(size, []).append((index, codes))
    found: set[tuple[int, int]] = set()
    for held in by_size.values():
        owners = torch.tensor([index for index, _ in held])
        rows, columns = (_surprises([codes for _, codes in held]) > SURPRISE).nonzero().T
        pairs = zip(owners[rows].tolist(), owners[columns].tolist(), strict=True)
        found |= {(i, j) for i, j in pairs if i < j}
    return found


def _sampled_codes(record: Record) -> Iterator[tuple[int, Tensor]]:
    """Size and centred barcodes (n, p) of the networks of the recipe's blocks."""
    codes = record.barcodes
    if codes is None:
        return
    for network, (layer, _, size, coded) in enumerate(codes.networks.tolist()):
        if layer in (record.layers or ()):
            numbers = codes.of_network(network)[:, STEADY].float()
            sample = sampled_units(size)
            numbers = numbers if coded == len(sample) else numbers[sample]
            yield size, numbers - numbers.mean(dim=0)


def _surprises(codes: Sequence[Tensor]) -> Tensor:
    """<X, Y> in standard deviations for every two of some networks, (networks, networks)."""
    X = torch.stack(list(codes))
    n = X.shape[1]
    covariances = (X.mT @ X / n).flatten(1)
    flat = X.flatten(1)
    variance = n**2 / max(n - 1, 1) * (covariances @ covariances.T)
    result: Tensor = (flat @ flat.T) * variance.clamp(min=1e-12).rsqrt()
    return result
