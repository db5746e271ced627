"""What each hidden unit of a feed-forward network does, in token space, in a few dozen numbers.

Row vectors: x @ W. With S = P^T E, where E (m, d) holds the whitened anchors and P (m, r) random
signs, unit j of a network has the features

    gate  S W_gate[:, j]        up  S W_up[:, j]        down  W_down[j] S^T        each (r,)

so that no map of the residual stream changes them, and cosines between units are kept up to
about 1/sqrt(r). A row of P depends on its anchor's string alone: models of any width and any
vocabulary share the rows of the anchors that they share, and the others add noise.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from huref.architecture.block import FeedForward, Mixture, SelfAttention
from huref.invariants.anchors import Anchors
from huref.invariants.barcodes import Barcodes, UnitVectors, network_key, standard_barcodes
from huref.invariants.relations import Relations, measure_relations

PROJECTIONS = 64
ROLES = ("gate", "up", "down")
UP, DOWN = 1, 2
SILENT = 1e-8  # up times down; a network below it does nothing. Trained ones have about 1.
EVERY_TOKEN = -1  # the number of a network that is no routed expert
EXPERTS_KEPT = 8  # of a mixture: the ones with the largest gates, whatever their order
_SALT = b"huref units 1\0"


@dataclass(frozen=True)
class UnitFeatures:
    """The features of some networks' units, one network after the other.

    Attributes:
        features: (units, 3, PROJECTIONS) float16, gate, up and down; each network's root mean
            square is 1 in each role. A network without a gate holds zeros there, one that writes
            nothing holds zeros only.
        scales: what they were divided by, (networks, 3) float32.
        networks: (networks, 3) int32: index of the block, number of the expert or EVERY_TOKEN,
            number of units.
    """

    features: Tensor
    scales: Tensor
    networks: Tensor

    def __len__(self) -> int:
        return len(self.networks)

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the blocks, in the order in which they were read."""
        return tuple(dict.fromkeys(self.networks[:, 0].tolist()))

    def in_layer(self, layer: int) -> list[int]:
        """Which networks belong to a block."""
        return [i for i, block in enumerate(self.networks[:, 0].tolist()) if block == layer]

    def is_idle(self, layer: int) -> bool:
        """Whether a block's networks write nothing."""
        return not any(self.scales[i].any() for i in self.in_layer(layer))

    def key(self, network: int) -> tuple[int, int]:
        """The block and the expert of a network."""
        return network_key(self.networks, network)

    def size(self, network: int) -> int:
        """Number of units of a network."""
        return int(self.networks[network, 2])

    def of_network(self, network: int) -> Tensor:
        """The features of a network, (units, 3, PROJECTIONS) float16."""
        start = int(self.networks[:network, 2].sum())
        return self.features[start : start + self.size(network)]

    def fits(self) -> bool:
        """Whether the parts agree with each other."""
        return (
            self.networks.ndim == 2
            and self.networks.shape[1] == 3
            and self.scales.shape == self.networks.shape
            and bool((self.networks[:, 2] > 0).all())
            and self.features.shape == (int(self.networks[:, 2].sum()), 3, PROJECTIONS)
            and bool(torch.isfinite(self.features).all() and torch.isfinite(self.scales).all())
        )


@lru_cache(maxsize=65536)
def _signs(token: bytes) -> np.ndarray:
    """The row of P of an anchor, (PROJECTIONS,) of +1 and -1; of an empty bucket zeros."""
    if not token:
        return np.zeros(PROJECTIONS, dtype=np.float32)
    digest = hashlib.shake_256(_SALT + token).digest(PROJECTIONS // 8)
    bits = np.unpackbits(np.frombuffer(digest, dtype=np.uint8))
    return bits.astype(np.float32) * 2 - 1


def sketch_rows(anchors: Anchors, E: Tensor) -> Tensor:
    """S = P^T E, (PROJECTIONS, d) float32, from whitened anchor rows E (m, d)."""
    signs = torch.from_numpy(np.stack([_signs(token) for token in anchors.tokens]))
    return signs.T @ E


@dataclass(frozen=True)
class NetworkFeatures:
    """One network's features, as they come."""

    expert: int
    features: Tensor  # (units, 3, PROJECTIONS) float16
    scales: Tensor  # (3,) float32


def network_features(network: FeedForward, S: Tensor, expert: int) -> NetworkFeatures:
    """The features of one network's units, from sketch rows S (PROJECTIONS, d)."""
    up, down = (S @ network.up).T, network.down @ S.T
    gate = torch.zeros_like(up) if network.gate is None else (S @ network.gate).T
    raw = torch.stack([gate, up, down], dim=1)
    scales = raw.square().mean(dim=(0, 2)).sqrt()
    if scales[UP] * scales[DOWN] < SILENT:
        scales, raw = torch.zeros_like(scales), torch.zeros_like(raw)
    return NetworkFeatures(expert, (raw / scales.clamp(min=1e-30)[:, None]).half(), scales)


class UnitCollector:
    """Takes the features of networks while others read them, so that nothing is read twice.

    Args:
        S: sketch rows (PROJECTIONS, d).
    """

    def __init__(self, S: Tensor):
        self._S = S
        self._whole: dict[int, bool] = {}
        self._blocks: dict[int, list[NetworkFeatures]] = {}
        self._vectors: dict[int, list[UnitVectors]] = {}
        self._barcodes: list[tuple[int, int, int, Tensor]] = []
        self._relations: list[tuple[int, int, int, int, Tensor]] = []

    def observe(self, layer: int, ffn: FeedForward | Mixture) -> FeedForward | Mixture:
        """The same network; its units are taken now, those of experts as they are read."""
        if isinstance(ffn, FeedForward):
            self._take(layer, ffn, EVERY_TOKEN)
            return ffn
        if ffn.shared is not None:
            self._take(layer, ffn.shared, EVERY_TOKEN)

        def read(index: int) -> FeedForward:
            expert = ffn.read(index)
            self._take(layer, expert, index)
            return expert

        return replace(ffn, read=read)

    def _take(self, layer: int, network: FeedForward, expert: int) -> None:
        features = network_features(network, self._S, expert)
        self._blocks.setdefault(layer, []).append(features)
        if layer in self._vectors and expert < EXPERTS_KEPT:
            self._vectors[layer].append(UnitVectors(network, expert, self._whole[layer]))

    def expect(self, layer: int, whole: bool = False) -> None:
        """Make barcodes of this block's units, all or some: its attention will follow."""
        self._vectors[layer], self._whole[layer] = [], whole

    def conclude(self, layer: int, attention: SelfAttention) -> None:
        """The barcodes of a block whose networks were observed, from its attention."""
        for vectors in self._vectors.pop(layer):
            key, numbers = (layer, vectors.expert, vectors.units), vectors.barcodes(attention)
            self._barcodes.append((*key, standard_barcodes(numbers).half()))
            self._relations.append((*key, len(vectors.sample), measure_relations(vectors.sample)))

    def barcodes(self) -> Barcodes:
        """All barcodes that were made."""
        networks = [[*key, len(numbers)] for *key, numbers in self._barcodes]
        return Barcodes(
            torch.cat([numbers for *_, numbers in self._barcodes]),
            torch.tensor(networks, dtype=torch.int32),
        )

    def relations(self) -> Relations:
        """How the sampled units of the same networks lie to each other."""
        return Relations(
            torch.cat([cosines for *_, cosines in self._relations]),
            torch.tensor([key for *key, _ in self._relations], dtype=torch.int32),
        )

    def collected(self) -> UnitFeatures:
        """Everything that was observed, blocks in order, of each only the experts that are kept."""
        kept = [
            (layer, part)
            for layer, parts in sorted(self._blocks.items())
            for part in _strongest(parts)
        ]
        networks = [[layer, part.expert, len(part.features)] for layer, part in kept]
        return UnitFeatures(
            torch.cat([part.features for _, part in kept]),
            torch.stack([part.scales for _, part in kept]),
            torch.tensor(networks, dtype=torch.int32),
        )


def _strongest(parts: Iterable[NetworkFeatures]) -> Iterator[NetworkFeatures]:
    """What every token passes, and the experts with the largest gates in order of their number.

    Gates, because up and down may be rescaled against each other without any effect.
    """
    shared = [part for part in parts if part.expert == EVERY_TOKEN]
    routed = [part for part in parts if part.expert != EVERY_TOKEN]
    largest = sorted(routed, key=lambda part: (-float(part.scales[0]), part.expert))
    yield from shared
    yield from sorted(largest[:EXPERTS_KEPT], key=lambda part: part.expert)
