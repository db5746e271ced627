"""Features of hidden units: what each unit reads and writes in token space, in 192 numbers.

Row vectors: x @ W. With S = P^T E, where E (m, d) holds the whitened anchors and P (m, r) random
signs, unit j of a network has the features

    gate  S W_gate[:, j]        up  S W_up[:, j]        down  W_down[j] S^T        each (r,)

No rotation of the residual stream changes them, and cosines between units are preserved up to
an error of about 1/sqrt(r). A row of P depends only on its anchor's string, so two models of any
widths and vocabularies have equal rows of P for the anchors that they share; the other anchors
add noise.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from huref.architecture.block import FeedForward
from huref.invariants.anchors import Anchors
from huref.invariants.barcodes import network_key

PROJECTIONS = 64
ROLES = ("gate", "up", "down")
UP, DOWN = 1, 2
# A network does nothing if its scales of up and down multiply to less; trained: about 1.
SILENT = 1e-8
EVERY_TOKEN = -1  # the number of a network that every token passes: dense, or the shared experts
EXPERTS_KEPT = 8  # experts of a mixture whose features are kept: those with the largest gates
_SALT = b"huref units 1\0"


@dataclass(frozen=True)
class UnitFeatures:
    """The features of the units of several networks, concatenated.

    Attributes:
        features: (units, 3, PROJECTIONS) float16, gate, up and down; the root mean square over a
            network is 1 in each role. The gate's features are zero for a network without a gate,
            all features are zero for a network that does nothing.
        scales: the root mean squares by which they were divided, (networks, 3) float32.
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
        """Indices of the blocks, in the order of `networks`."""
        return tuple(dict.fromkeys(self.networks[:, 0].tolist()))

    def in_layer(self, layer: int) -> list[int]:
        """Rows of `networks` that belong to a block."""
        return [i for i, block in enumerate(self.networks[:, 0].tolist()) if block == layer]

    def is_idle(self, layer: int) -> bool:
        """Whether all networks of a block do nothing."""
        return not any(self.scales[i].any() for i in self.in_layer(layer))

    def key(self, network: int) -> tuple[int, int]:
        """Block index and expert number of a network."""
        return network_key(self.networks, network)

    def size(self, network: int) -> int:
        """Number of units of a network."""
        return int(self.networks[network, 2])

    def of_network(self, network: int) -> Tensor:
        """The features of a network, (units, 3, PROJECTIONS) float16."""
        start = int(self.networks[:network, 2].sum())
        return self.features[start : start + self.size(network)]

    def fits(self) -> bool:
        """Whether shapes and values of the tensors are consistent."""
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
    """The row of P of an anchor, (PROJECTIONS,) of +1 and -1; zeros for an empty bucket."""
    if not token:
        return np.zeros(PROJECTIONS, dtype=np.float32)
    digest = hashlib.shake_256(_SALT + token).digest(PROJECTIONS // 8)
    bits = np.unpackbits(np.frombuffer(digest, dtype=np.uint8))
    return bits.astype(np.float32) * 2 - 1


def sketch_rows(anchors: Anchors, E: Tensor) -> Tensor:
    """S = P^T E, (PROJECTIONS, d) float32, of whitened anchor embeddings E (m, d)."""
    return token_signs(anchors).T @ E


def token_signs(anchors: Anchors) -> Tensor:
    """P, (m, PROJECTIONS) float32: a row of signs for each anchor's string."""
    return torch.from_numpy(np.stack([_signs(token) for token in anchors.tokens]))


@dataclass(frozen=True)
class NetworkFeatures:
    """The features of the units of one network."""

    expert: int
    features: Tensor  # (units, 3, PROJECTIONS) float16
    scales: Tensor  # (3,) float32
    shares: Tensor | None = None  # (units,), see `huref.invariants.block_use.UnitUse`


def network_features(
    network: FeedForward, S: Tensor, expert: int, shares: Tensor | None = None
) -> NetworkFeatures:
    """The features of one network's units, from sketch rows S (PROJECTIONS, d)."""
    up, down = (S @ network.up).T, network.down @ S.T
    gate = torch.zeros_like(up) if network.gate is None else (S @ network.gate).T
    raw = torch.stack([gate, up, down], dim=1)
    scales = raw.square().mean(dim=(0, 2)).sqrt()
    if scales[UP] * scales[DOWN] < SILENT:
        scales, raw = torch.zeros_like(scales), torch.zeros_like(raw)
    return NetworkFeatures(expert, (raw / scales.clamp(min=1e-30)[:, None]).half(), scales, shares)


def join_features(networks: Sequence[tuple[int, NetworkFeatures]]) -> UnitFeatures:
    """The features of several networks, each given with the index of its block."""
    rows = [[layer, part.expert, len(part.features)] for layer, part in networks]
    return UnitFeatures(
        torch.cat([part.features for _, part in networks]),
        torch.stack([part.scales for _, part in networks]),
        torch.tensor(rows, dtype=torch.int32),
    )


def strongest(parts: Sequence[NetworkFeatures]) -> list[NetworkFeatures]:
    """The networks of a block that are kept: first those that every token passes, then experts.

    The EXPERTS_KEPT experts with the largest gates, in ascending order of their numbers. Gates,
    because up and down may be rescaled against each other without any effect.
    """
    always = [part for part in parts if part.expert == EVERY_TOKEN]
    routed = [part for part in parts if part.expert != EVERY_TOKEN]
    largest = sorted(routed, key=lambda part: (-float(part.scales[0]), part.expert))
    return always + sorted(largest[:EXPERTS_KEPT], key=lambda part: part.expert)
