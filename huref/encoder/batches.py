"""Training data: a pool of families that is drawn once, and batches with permuted anchors.

Computing, whitening and flattening the terms of a model takes most of a second, and all three
commute with a permutation of the anchors. So a pool of families is drawn once, and every step
permutes the rows and columns of its families, which makes them new models for the convolutions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from huref.encoder.config import TrainingConfig
from huref.encoder.embeddings import EmbeddingPool
from huref.encoder.synthetic import Family, ics


@dataclass(frozen=True)
class Batch:
    """Terms, each (n, 2, 3, m, m), of n families.

    Attributes:
        base, relative: the terms of the bases and of a relative of each.
        rho: the ICS of each base and its relative, (n,).
        accident: the terms of the bases after an accident, or None.
    """

    base: Tensor
    relative: Tensor
    rho: Tensor
    accident: Tensor | None


def permute_anchors(terms: Tensor, order: Tensor) -> Tensor:
    """Terms (..., m, m) with the anchors in another order."""
    return terms[..., order, :][..., order]


class FamilyPool:
    """The families of a run: bases, each with a relative at a random rho and one accident."""

    def __init__(self, config: TrainingConfig, device: str) -> None:
        data, seed = config.data, config.seed
        self.anchors = int(config.architecture.get("anchors", 512))
        self._seed, self._families, self._device = seed, data.families, device
        embeddings = EmbeddingPool(data.embeddings, self.anchors, data.widths, seed, device)
        generator = torch.Generator(device).manual_seed(seed)
        chance = torch.Generator().manual_seed(seed)
        low, high = data.rho
        bases, relatives, accidents = [], [], []
        for index in tqdm(range(data.pool), desc="families", unit="family", disable=None):
            family = Family(embeddings, generator)
            bases.append(family.base())
            rho = low + (high - low) * float(torch.rand(1, generator=chance))
            relatives.append(family.relative(rho))
            if data.accidents:
                accidents.append(family.accident(data.accidents[index % len(data.accidents)]))
        self._base, self._relative = torch.stack(bases), torch.stack(relatives)
        self._rho = ics(self._base, self._relative).float()
        self._accident = torch.stack(accidents) if accidents else None

    def draw(self, step: int) -> Batch:
        """The data of a step: distinct families, each with its anchors in a random order."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        chosen = torch.randperm(len(self._base), generator=generator)[: self._families]
        orders = [torch.randperm(self.anchors, generator=generator) for _ in chosen]

        def take(terms: Tensor) -> Tensor:
            pairs = zip(chosen.tolist(), orders, strict=True)
            return torch.stack(
                [permute_anchors(terms[i], order.to(self._device)) for i, order in pairs]
            )

        accident = None if self._accident is None else take(self._accident)
        rho = self._rho[chosen.to(self._device)]
        return Batch(take(self._base), take(self._relative), rho, accident)
