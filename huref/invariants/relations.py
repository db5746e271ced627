"""Relations between the hidden units of a network: the cosines between their vectors.

Cosines between gate, up and down vectors in the residual stream do not change under a rotation of
the stream, a map of a head or a rescaling of units. They need neither embeddings nor tokenizer.
Barcodes identify a unit; relations describe the structure that training gives to all units, from
which retention is measured (docs/maths.md, Statistics).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from huref.invariants.barcodes import find_network


@dataclass(frozen=True, eq=False)
class Relations:
    """Cosines between the vectors of some units of several networks, concatenated.

    The units are `related_units`: evenly spaced ones, which meet where units keep their index, and
    the strongest, which meet where units were permuted or removed.

    Attributes:
        cosines: (sum over networks of n (n - 1) / 2,) float16: the upper triangle of each
            network's matrix, row by row, with n = roles * sampled units; the order of the n
            vectors is all gates, all ups, all downs.
        networks: (networks, 4) int32: index of the block, number of the expert, number of units
            that are related, and number of roles: 3 with a gate, 2 without.
        units: their indices in their networks, ascending, (sum of these numbers,) int32.
    """

    cosines: Tensor
    networks: Tensor
    units: Tensor

    def find(self, layer: int, expert: int) -> int | None:
        """The row of `networks` of a block and an expert, or None."""
        return find_network(self.networks, layer, expert)

    def units_of(self, network: int) -> Tensor:
        """Indices of the related units of a network, (n,) int64, ascending."""
        start = int(self.networks[:network, 2].sum())
        return self.units[start : start + int(self.networks[network, 2])].long()

    def of_network(self, network: int) -> Tensor:
        """The cosines of a network, (roles, units, roles, units) float32, zero on the diagonal."""
        sizes = self._sizes()
        start = sum(vectors * (vectors - 1) // 2 for vectors in sizes[:network])
        vectors, roles = sizes[network], int(self.networks[network, 3])
        full = torch.zeros(vectors, vectors)
        rows, columns = torch.triu_indices(vectors, vectors, 1)
        full[rows, columns] = self.cosines[start : start + len(rows)].float()
        return (full + full.T).view(roles, -1, roles, vectors // roles)

    def _sizes(self) -> list[int]:
        """Number of vectors of each network."""
        return [roles * units for units, roles in self.networks[:, 2:].tolist()]

    def fits(self) -> bool:
        """Whether shapes and values of the tensors are consistent."""
        if self.networks.ndim != 2 or self.networks.shape[1] != 4:
            return False
        units, roles = self.networks[:, 2], self.networks[:, 3]
        if not ((units > 0).all() and ((roles == 2) | (roles == 3)).all()):
            return False
        if self.units.shape != (int(units.sum()),) or bool((self.units < 0).any()):
            return False
        expected = sum(vectors * (vectors - 1) // 2 for vectors in self._sizes())
        return self.cosines.shape == (expected,) and bool(torch.isfinite(self.cosines).all())


def measure_relations(vectors: Tensor) -> Tensor:
    """Cosines between vectors (roles, units, d) of length 1: upper triangle, (n,) float16."""
    rows = vectors.flatten(0, 1)
    cosines = rows @ rows.T
    return cosines[*torch.triu_indices(len(rows), len(rows), 1)].half()
