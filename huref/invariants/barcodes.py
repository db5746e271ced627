"""Numbers that identify a hidden unit without any tokens: products inside its own block.

For a unit with gate, up and down vectors g, u, d in the residual stream, each of length 1, and
for O the identity, W_q W_k^T (heads summed), W_v W_o, and the Gram matrices of the normalised
gate, up and down vectors of all units of the block, every number x^T O y with x, y in {g, u, d}
is the same after a rotation of the residual stream, a map of a head's features, or rescaling
units; renumbering units only renumbers them. They need neither embeddings nor tokenizer, so they
compare models whose vocabularies have nothing in common.
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from huref.architecture.block import FeedForward, SelfAttention

CHUNK = 128  # units whose numbers are worked out at once
SAMPLED = 128  # units of a network that get a barcode; at most about twice that
ORDERED = tuple(product(range(3), repeat=2))  # of gate, up and down, for O that is not symmetric
UNORDERED = tuple((x, y) for x, y in ORDERED if x <= y)
# gate-up, gate-down, up-down of the identity; scores and writes; three Gram matrices.
PAIRS = ((0, 1), (0, 2), (1, 2)) + ORDERED * 2 + UNORDERED * 3
NUMBERS = len(PAIRS)
# Negating a unit's up and down together changes nothing but the sign of these.
FLIPS = tuple((x == 0) != (y == 0) for x, y in PAIRS)


def sampled_units(units: int) -> Tensor:
    """Which units of a network get a barcode: evenly spaced ones, (n,) int64."""
    return torch.arange(0, units, max(units // SAMPLED, 1))


def find_network(networks: Tensor, layer: int, expert: int) -> int | None:
    """The row of a table (networks, 2 or more) that begins with a block and an expert, or None."""
    wanted = [layer, expert]
    return next((i for i, row in enumerate(networks.tolist()) if row[:2] == wanted), None)


def network_key(networks: Tensor, network: int) -> tuple[int, int]:
    """The block and the expert with which a row of such a table begins."""
    layer, expert, *_ = networks[network].tolist()
    return layer, expert


@dataclass(frozen=True)
class Barcodes:
    """Standard barcodes of units of some networks.

    Attributes:
        numbers: (units, NUMBERS) float16.
        networks: (networks, 4) int32: index of the block, number of the expert, units of the
            network, and how many of these have a barcode: all, or those of `sampled_units`.
    """

    numbers: Tensor
    networks: Tensor

    def of_network(self, network: int) -> Tensor:
        """The barcodes of a network, (units with a barcode, NUMBERS) float16."""
        start = int(self.networks[:network, 3].sum())
        return self.numbers[start : start + int(self.networks[network, 3])]

    def find(self, layer: int, expert: int) -> int | None:
        """Which network it is that belongs to a block and an expert, or None."""
        return find_network(self.networks, layer, expert)

    def key(self, network: int) -> tuple[int, int]:
        """The block and the expert of a network."""
        return network_key(self.networks, network)

    def units_of(self, network: int) -> Tensor:
        """Which units of a network have a barcode, (n,) int64, ascending."""
        units, coded = self.networks[network, 2:].tolist()
        return torch.arange(units) if units == coded else sampled_units(units)

    def fits(self) -> bool:
        """Whether the parts agree with each other."""
        return (
            self.networks.ndim == 2
            and self.networks.shape[1] == 4
            and bool((self.networks[:, 3] > 0).all())
            and self.numbers.shape == (int(self.networks[:, 3].sum()), NUMBERS)
            and bool(torch.isfinite(self.numbers).all())
        )


class UnitVectors:
    """The vectors of some units, kept so that a block's halves need not be in memory together.

    Attributes:
        expert: number of the network that they belong to.
        units: number of units of that network, of which these are some or all.
        vectors: gate, up and down of each, normalised, (3, units, d); without a gate zeros.
        sample: those of `sampled_units`, without the zeros, (2 or 3, units, d).
        grams: their numbers under the three Gram matrices, (units, 18).
    """

    def __init__(self, network: FeedForward, expert: int, whole: bool):
        self.expert, self.units = expert, network.up.shape[1]
        chosen = torch.arange(self.units) if whole else sampled_units(self.units)
        matrices = (network.gate, network.up, network.down.T)
        self.vectors = torch.stack(
            [
                torch.zeros(len(chosen), len(network.up)) if W is None else _normal(W[:, chosen].T)
                for W in matrices
            ]
        )
        parts = torch.split(self.vectors, CHUNK, dim=1)
        sampled = sampled_units(self.units) if whole else slice(None)
        roles = slice(1 if network.gate is None else 0, None)
        self.sample = self.vectors[roles, sampled]
        under = [[_under_gram(part, W) for part in parts] for W in matrices]
        self.grams = torch.cat([torch.cat(rows) for rows in under], dim=1)

    def barcodes(self, attention: SelfAttention) -> Tensor:
        """The numbers of each unit, (units, NUMBERS) float32."""
        parts = [_in_attention(part, attention) for part in torch.split(self.vectors, CHUNK, dim=1)]
        return torch.cat([torch.cat(parts), self.grams], dim=1)


def _under_gram(vectors: Tensor, W: Tensor | None) -> Tensor:
    """x^T (sum of w w^T over normalised columns w) y for vectors (3, units, d): (units, 6)."""
    if W is None:
        return torch.zeros(vectors.shape[1], len(UNORDERED))
    seen = (vectors @ W) / W.norm(dim=0).clamp(min=1e-30)  # (3, units, h)
    return torch.stack([(seen[x] * seen[y]).sum(dim=1) for x, y in UNORDERED], dim=1)


def _in_attention(vectors: Tensor, attention: SelfAttention) -> Tensor:
    """The numbers under the identity and the two maps of attention, (units, 21)."""
    own = [(vectors[x] * vectors[y]).sum(dim=1) for x, y in PAIRS[:3]]
    rows, count = vectors.flatten(0, 1), vectors.shape[1]
    scores = attention.scores(rows).view(3, count, 3, count)
    written = attention.write(rows).view_as(vectors)
    asked = [scores[x, :, y].diagonal() for x, y in ORDERED]
    told = [(written[x] * vectors[y]).sum(dim=1) for x, y in ORDERED]
    return torch.stack(own + asked + told, dim=1)


def standard_barcodes(numbers: Tensor) -> Tensor:
    """Barcodes in comparable units: each number centred and scaled over the units of its network.

    Numbers whose sign is a convention are scaled only.

    Args:
        numbers: (units, NUMBERS).

    Returns:
        (units, NUMBERS) float32; a number that is the same for all units becomes 0.
    """
    values = numbers.double()
    flips = torch.tensor(FLIPS)
    centred = torch.where(flips, values, values - values.mean(dim=0))
    deviation = centred.square().mean(dim=0).sqrt()
    standard = torch.where(deviation > 1e-12, centred / deviation.clamp(min=1e-30), 0.0)
    return standard.float()


def _normal(rows: Tensor) -> Tensor:
    normalised: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return normalised
