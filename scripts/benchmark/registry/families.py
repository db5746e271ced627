"""Synthetic families for the registry's measurements, kept on disk."""

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
    """Draw synthetic families, each seeded by its number, and return their files.

    Existing files are reused. A file holds stacked terms (n, 2, 3, m, m): the base's and, with
    `relatives`, those of one relative for each of `RHOS`.
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
    """Terms (n, 2, 3, m, m) of a family, the base first."""
    terms: Tensor = torch.load(path, weights_only=True)
    return terms


def reorder(terms: Tensor, generator: torch.Generator) -> Tensor:
    """The terms with their anchors in a random order.

    Whitening and flattening commute with a permutation. The result is that of the same weights with
    tokens in other buckets: to a registry another model, and another sample for the sketch.
    """
    order = torch.randperm(terms.shape[-1], generator=generator)
    return terms[..., order[:, None], order]
