"""All measurements of the hidden units of a block: features, barcodes and relations.

A block's feed-forward network and its attention need not be in memory together. So the work is
done in two steps: `measure_network` reduces a network to what is needed of it later, and
`measure_block` adds the block's attention. Both return plain data.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from huref.architecture.block import FeedForward, Mixture, SelfAttention
from huref.invariants.barcodes import Barcodes, UnitVectors, standard_barcodes
from huref.invariants.relations import Relations, measure_relations
from huref.invariants.terms import ffn_term
from huref.invariants.unit_features import (
    EVERY_TOKEN,
    EXPERTS_KEPT,
    NetworkFeatures,
    UnitFeatures,
    join_features,
    network_features,
    strongest,
)


@dataclass(frozen=True)
class NetworkUnits:
    """What is needed of a feed-forward network after its matrices have left memory.

    Attributes:
        features: the features of its units.
        vectors: the vectors from which barcodes and relations are made; None for experts numbered
            EXPERTS_KEPT and above, which get neither.
    """

    features: NetworkFeatures
    vectors: UnitVectors | None


def measure_network(
    network: FeedForward, expert: int, S: Tensor, every_unit: bool, shares: Tensor | None = None
) -> NetworkUnits:
    """Measure one network.

    Args:
        network: a dense network, an expert or the shared experts.
        expert: number of the expert, or EVERY_TOKEN.
        S: sketch rows (PROJECTIONS, d).
        every_unit: whether every unit gets a barcode, or only `sampled_units`.
        shares: share of each unit in what the network writes, if it was run.
    """
    features = network_features(network, S, expert, shares)
    has_barcode = expert < EXPERTS_KEPT
    vectors = UnitVectors(network, expert, every_unit) if has_barcode else None
    return NetworkUnits(features, vectors)


def measure_networks(ffn: FeedForward | Mixture, S: Tensor) -> list[NetworkUnits]:
    """Measure all networks of a block, with barcodes for `sampled_units` only."""
    return [measure_network(network, expert, S, False) for expert, network in _networks(ffn)]


def term_and_networks(
    ffn: FeedForward | Mixture, E: Tensor, S: Tensor, every_unit: bool
) -> tuple[Tensor, list[NetworkUnits]]:
    """The ffn term (m, m) and the measurements of all networks; each expert is read once."""
    measured: list[NetworkUnits] = []

    def measure(network: FeedForward, expert: int) -> FeedForward:
        measured.append(measure_network(network, expert, S, every_unit))
        return network

    if isinstance(ffn, FeedForward):
        return ffn_term(measure(ffn, EVERY_TOKEN), E), measured
    if ffn.shared is not None:
        measure(ffn.shared, EVERY_TOKEN)
    read: Callable[[int], FeedForward] = ffn.read
    observed = replace(ffn, read=lambda index: measure(read(index), index))
    return ffn_term(observed, E), measured


def _networks(ffn: FeedForward | Mixture) -> Iterator[tuple[int, FeedForward]]:
    """The networks of a block with their numbers: the shared one first, then expert by expert."""
    if isinstance(ffn, FeedForward):
        yield EVERY_TOKEN, ffn
        return
    if ffn.shared is not None:
        yield EVERY_TOKEN, ffn.shared
    for expert in range(ffn.count):
        yield expert, ffn.read(expert)


@dataclass(frozen=True)
class NetworkBarcodes:
    """The barcodes and relations of one network.

    Attributes:
        expert: number of the expert, or EVERY_TOKEN.
        units: number of units of the network.
        barcodes: (units with a barcode, NUMBERS) float16.
        roles: 3 with a gate, 2 without.
        related: indices of the units that are related to each other, (n,) int64.
        cosines: their relations, (n (n - 1) / 2 with all roles,) float16.
    """

    expert: int
    units: int
    barcodes: Tensor
    roles: int
    related: Tensor
    cosines: Tensor


@dataclass(frozen=True)
class BlockUnits:
    """The measurements of one block: features of the networks that are kept, and barcodes."""

    layer: int
    features: tuple[NetworkFeatures, ...]
    barcodes: tuple[NetworkBarcodes, ...]


def measure_block(
    layer: int, networks: Sequence[NetworkUnits], attention: SelfAttention
) -> BlockUnits:
    """The measurements of a block from those of its networks and its attention."""
    return BlockUnits(
        layer,
        tuple(strongest([network.features for network in networks])),
        tuple(
            NetworkBarcodes(
                vectors.expert,
                vectors.units,
                standard_barcodes(vectors.barcodes(attention)).half(),
                len(vectors.sample),
                vectors.related,
                measure_relations(vectors.sample),
            )
            for network in networks
            if (vectors := network.vectors) is not None
        ),
    )


def join_blocks(blocks: Sequence[BlockUnits]) -> tuple[UnitFeatures, Barcodes, Relations]:
    """The measurements of several blocks in the form in which a record stores them.

    Features are in the order of the blocks' indices, barcodes and relations in the given order.
    """
    in_order = sorted(blocks, key=lambda block: block.layer)
    features = join_features([(block.layer, part) for block in in_order for part in block.features])
    coded = [(block.layer, part) for block in blocks for part in block.barcodes]
    barcodes = Barcodes(
        torch.cat([part.barcodes for _, part in coded]),
        torch.tensor(
            [[layer, part.expert, part.units, len(part.barcodes)] for layer, part in coded],
            dtype=torch.int32,
        ),
    )
    relations = Relations(
        torch.cat([part.cosines for _, part in coded]),
        torch.tensor(
            [[layer, part.expert, len(part.related), part.roles] for layer, part in coded],
            dtype=torch.int32,
        ),
        torch.cat([part.related for _, part in coded]).int(),
    )
    return features, barcodes, relations
