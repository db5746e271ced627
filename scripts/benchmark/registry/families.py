"""Synthetic models for the registry's measurements, kept on disk so that a run can go on."""

from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from huref.encoder.embeddings import EmbeddingPool
from huref.encoder.synthetic import Family
from huref.files import replacing

WIDTHS = [128, 256, 512, 1024]
RHOS = (0.1, 0.3, 0.5, 0.7, 0.9)
M = 512


def draw_families(folder: Path, count: int, relatives: bool) -> list[Path]:
    """Files of synthetic families, each drawn from its own number; what is there is kept.

    A file holds the base's terms (2, 3, m, m) and, with `relatives`, one relative's for each of
    `RHOS`, stacked behind it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = "relatives" if relatives else "base"
    paths = [folder / f"{kind}-{number}.pt" for number in range(count)]
    missing = [number for number in range(count) if not paths[number].exists()]
    if missing:
        pool = EmbeddingPool(24, M, WIDTHS, seed=8)
        for number in tqdm(missing, desc=f"families ({kind})", disable=None):
            generator = torch.Generator().manual_seed(1_000_003 * (1 + relatives) + number)
            family = Family(pool, generator)
            terms = [family.base()]
            if relatives:
                terms += [family.relative(rho) for rho in RHOS]
            with replacing(paths[number]) as temporary:
                torch.save(torch.stack(terms), temporary)
    return paths


def load_family(path: Path) -> Tensor:
    """Terms (1 or 1 + relatives, 2, 3, m, m) of a family."""
    terms: Tensor = torch.load(path, weights_only=True)
    return terms


def reorder(terms: Tensor, generator: torch.Generator) -> Tensor:
    """The same terms with their anchors in another order.

    Whitening and flattening commute with a permutation, so this is what the same weights would
    give with their tokens in other buckets: another model as far as any entry is concerned, and
    another sample of entries for its sketch.
    """
    order = torch.randperm(terms.shape[-1], generator=generator)
    return terms[..., order[:, None], order]
