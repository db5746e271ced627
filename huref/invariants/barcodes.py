"""Barcodes: numbers that identify a hidden unit without tokens.

Let g, u, d be the gate, up and down vectors of a unit in the residual stream, normalised. Let O be
the identity, W_q W_k^T (summed over heads), W_v W_o, or the Gram matrix of the normalised gate, up
or down vectors of all units of the network. No number x^T O y with x, y in {g, u, d} changes under
a rotation of the residual stream, a map of a head's features or a rescaling of units, and a
permutation of the units only permutes them. They need neither embeddings nor tokenizer, so they
compare models whose vocabularies share no strings. See docs/maths.md, Statistics.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from huref.architecture.block import FeedForward, SelfAttention
from huref.invariants.reproducible import row_norms

CHUNK = 128  # number of units that are computed at once
STRONGEST = 128  # units of a network that are related to each other besides
SAMPLED = 128  # units of a network in a sample; `sampled_units` gives at most twice as many
ORDERED = tuple(product(range(3), repeat=2))  # pairs of gate, up and down, if O is not symmetric
UNORDERED = tuple((x, y) for x, y in ORDERED if x <= y)
# The identity (gate-up, gate-down, up-down); attention's two maps; the three Gram matrices.
PAIRS = ((0, 1), (0, 2), (1, 2)) + ORDERED * 2 + UNORDERED * 3
NUMBERS = len(PAIRS)
# Whether negating a unit's up and down together, which changes no function, flips the sign.
FLIPS = tuple((x == 0) != (y == 0) for x, y in PAIRS)


def sampled_units(units: int) -> Tensor:
    """Indices of the sampled units of a network, evenly spaced, (n,) int64."""
    return torch.arange(0, units, max(units // SAMPLED, 1))


def related_units(network: FeedForward) -> Tensor:
    """Indices of the units that are related to each other, (n,) int64, ascending.

    The `sampled_units` and the STRONGEST by the product of the lengths of their vectors, which does
    not change when up and down are rescaled.
    """
    strength = row_norms(network.up.T) * row_norms(network.down)
    if network.gate is not None:
        strength = strength * row_norms(network.gate.T)
    strongest = strength.topk(min(STRONGEST, len(strength))).indices
    found: Tensor = torch.unique(torch.cat([sampled_units(len(strength)), strongest]))
    return found


def find_network(networks: Tensor, layer: int, expert: int) -> int | None:
    """The row of a table (networks, 2 or more) that starts with (layer, expert), or None."""
    key = [layer, expert]
    return next((i for i, row in enumerate(networks.tolist()) if row[:2] == key), None)


def network_key(networks: Tensor, network: int) -> tuple[int, int]:
    """The first two values of a row of such a table: block index and expert number."""
    layer, expert, *_ = networks[network].tolist()
    return layer, expert


@dataclass(frozen=True)
class Barcodes:
    """Standardised barcodes of the units of several networks, concatenated.

    Attributes:
        numbers: (units, NUMBERS) float16.
        networks: (networks, 4) int32: index of the block, number of the expert, number of units,
            and number of units with a barcode: either all, or `sampled_units`.
    """

    numbers: Tensor
    networks: Tensor

    def of_network(self, network: int) -> Tensor:
        """The barcodes of a network, (units with a barcode, NUMBERS) float16."""
        start = int(self.networks[:network, 3].sum())
        return self.numbers[start : start + int(self.networks[network, 3])]

    def find(self, layer: int, expert: int) -> int | None:
        """The row of `networks` of a block and an expert, or None."""
        return find_network(self.networks, layer, expert)

    def key(self, network: int) -> tuple[int, int]:
        """Block index and expert number of a network."""
        return network_key(self.networks, network)

    def is_complete(self, network: int) -> bool:
        """Whether all units of a network have a barcode."""
        return bool(self.networks[network, 2] == self.networks[network, 3])

    def units_of(self, network: int) -> Tensor:
        """Indices of the units of a network that have a barcode, (n,) int64, ascending."""
        units, coded = self.networks[network, 2:].tolist()
        return torch.arange(units) if units == coded else sampled_units(units)

    def fits(self) -> bool:
        """Whether shapes and values of the tensors are consistent."""
        return (
            self.networks.ndim == 2
            and self.networks.shape[1] == 4
            and bool((self.networks[:, 3] > 0).all())
            and self.numbers.shape == (int(self.networks[:, 3].sum()), NUMBERS)
            and bool(torch.isfinite(self.numbers).all())
        )


class UnitVectors:
    """What barcodes need of a network, so that it can leave memory before attention is read.

    Args:
        network: a feed-forward network.
        expert: number of the expert.
        whole: whether to take all units or only `sampled_units`.

    Attributes:
        expert: number of the expert.
        units: number of units of the network.
        vectors: normalised gate, up and down vectors of the chosen units, (3, n, d); the gate's
            are zero for a network without a gate.
        related: the `related_units` of the network, (n,) int64.
        sample: their vectors, without a missing gate, (2 or 3, n, d).
        grams: the numbers under the three Gram matrices, (n, 18).
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
        self.related = related_units(network)
        self.sample = torch.stack(
            [_normal(W[:, self.related].T) for W in matrices if W is not None]
        )
        by_matrix = [_under_gram(parts, W) for W in matrices]
        self.grams = torch.cat(by_matrix, dim=1)

    def barcodes(self, attention: SelfAttention) -> Tensor:
        """The numbers of each chosen unit, not standardised, (n, NUMBERS) float32."""
        parts = [_in_attention(part, attention) for part in torch.split(self.vectors, CHUNK, dim=1)]
        return torch.cat([torch.cat(parts), self.grams], dim=1)


def _under_gram(parts: Sequence[Tensor], W: Tensor | None) -> Tensor:
    """x^T (sum of w w^T over normalised columns w) y for vectors (3, units, d): (all units, 6).

    The Gram matrix (d, d) is formed where that takes fewer products than the columns (d, h) do.
    """
    count = sum(part.shape[1] for part in parts)
    if W is None:
        return torch.zeros(count, len(UNORDERED))
    width, units = W.shape
    directions = W / W.norm(dim=0).clamp(min=1e-30)
    if width * (units + 3 * count) < 3 * count * units:
        G = directions @ directions.T
        products = ((part @ G, part) for part in parts)
    else:
        products = ((part @ directions,) * 2 for part in parts)
    numbers = [
        torch.stack([(left[x] * right[y]).sum(dim=1) for x, y in UNORDERED], dim=1)
        for left, right in products
    ]
    return torch.cat(numbers)


def _in_attention(vectors: Tensor, attention: SelfAttention) -> Tensor:
    """The numbers under the identity and the two maps of attention, (units, 21)."""
    identity_numbers = [(vectors[x] * vectors[y]).sum(dim=1) for x, y in PAIRS[:3]]
    rows, count = vectors.flatten(0, 1), vectors.shape[1]
    scores = attention.scores(rows).view(3, count, 3, count)
    written = attention.write(rows).view_as(vectors)
    qk_numbers = [scores[x, :, y].diagonal() for x, y in ORDERED]
    vo_numbers = [(written[x] * vectors[y]).sum(dim=1) for x, y in ORDERED]
    return torch.stack(identity_numbers + qk_numbers + vo_numbers, dim=1)


def standard_barcodes(numbers: Tensor) -> Tensor:
    """Standardise barcodes: centre and scale each number over the units of a network.

    Numbers whose sign is arbitrary (FLIPS) are scaled but not centred.

    Args:
        numbers: (units, NUMBERS).

    Returns:
        (units, NUMBERS) float32; a number that is equal for all units becomes 0.
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
