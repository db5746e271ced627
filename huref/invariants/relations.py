"""How the hidden units of a network lie to each other: the cosines between their vectors.

The gate, up and down vectors of units in the residual stream, each of length 1, have inner
products that no rotation of the stream, no map of a head and no rescaling of units changes. They
need neither embeddings nor tokenizer. Barcodes say which unit is which; these say what the units
of a network have in common, which is what training puts into them (see `lineage.retention`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from huref.invariants.barcodes import find_network, sampled_units


@dataclass(frozen=True, eq=False)
class Relations:
    """Cosines between vectors of the sampled units of some networks (see `sampled_units`).

    Attributes:
        cosines: (sum over networks of n (n - 1) / 2,) float16: each network's upper triangle, row
            by row, n = roles * units; all gates come first, then all ups, then all downs.
        networks: (networks, 4) int32: index of the block, number of the expert, units of the
            network, and roles: 3 with a gate, 2 without.
    """

    cosines: Tensor
    networks: Tensor

    def find(self, layer: int, expert: int) -> int | None:
        """Which network it is that belongs to a block and an expert, or None."""
        return find_network(self.networks, layer, expert)

    def units_of(self, network: int) -> Tensor:
        """Which units of a network the cosines are of, (n,) int64, ascending."""
        return sampled_units(int(self.networks[network, 2]))

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
        return [roles * len(sampled_units(units)) for units, roles in self.networks[:, 2:].tolist()]

    def fits(self) -> bool:
        """Whether the parts agree with each other."""
        if self.networks.ndim != 2 or self.networks.shape[1] != 4:
            return False
        units, roles = self.networks[:, 2], self.networks[:, 3]
        if not ((units > 0).all() and ((roles == 2) | (roles == 3)).all()):
            return False
        held = sum(vectors * (vectors - 1) // 2 for vectors in self._sizes())
        return self.cosines.shape == (held,) and bool(torch.isfinite(self.cosines).all())


def measure_relations(vectors: Tensor) -> Tensor:
    """The cosines between vectors of length 1, (roles, units, d): a triangle, (n,) float16."""
    rows = vectors.flatten(0, 1)
    cosines = rows @ rows.T
    return cosines[*torch.triu_indices(len(rows), len(rows), 1)].half()
