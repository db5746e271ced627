"""Which of very many pairs of models may have the same origin, by matrix products over records.

Units of models from one initialisation keep their index, and barcodes identify them without tokens.
Let X and Y (n, p) hold the barcodes of the same n sampled units, each number centred over the
units. If the models are independent, every order of the units of Y is equally likely, and over all
n! orders

    <X, Y> has mean 0 and variance n^2 / (n - 1) <C_X, C_Y>,      C_X = X^T X / n

(the sum of the squares of all x_i . y_j over n - 1). So <X, Y> in standard deviations is compared
with a threshold; all pairs cost two matrix products. Networks of different sizes and permuted units
are not found. Pairs that are found are then tested as every pair of a small table is.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from huref.invariants.barcodes import FLIPS, sampled_units
from huref.invariants.record import Record

SURPRISE = 6.0  # standard deviations; a normal variable exceeds it once in a billion
STEADY = [number for number, flips in enumerate(FLIPS) if not flips]  # their sign is fixed


def screen_pairs(records: Sequence[Record]) -> set[tuple[int, int]]:
    """Pairs of records (i, j), i < j, with at least one related pair of the recipe's blocks."""
    by_size: dict[int, list[tuple[int, Tensor]]] = {}
    for index, record in enumerate(records):
        for size, codes in _sampled_codes(record):
            by_size.setdefault(size, []).append((index, codes))
    found: set[tuple[int, int]] = set()
    for networks in by_size.values():
        owners = torch.tensor([index for index, _ in networks])
        rows, columns = (_surprises([codes for _, codes in networks]) > SURPRISE).nonzero().T
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
