"""Drawings to judge by, kept in a folder of their own; none was ever trained on.

Latents come from seeds that the training's shards do not use, so that a decoder cannot have seen
them. Images are kept as uint8 of the side asked for, reduced from drawings of 128 px or more.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from huref.recipe import LATENT_SIZE
from scripts.dogs.draw import draw, latent_basis

SIDE = 64  # pixels on a side, of what the regressor sees
FIRST_SEED = 1 << 40  # the training's shards are numbered from 0, its held-out one is 2^30
CHUNK = 512  # drawings in a file

Latents = NDArray[np.float64]
Images = NDArray[np.uint8]


def latents_of(seed: int, count: int) -> Latents:
    """Latents (count, 512) of norm sqrt(512), of a seed that no training uses."""
    z = np.random.default_rng(FIRST_SEED + seed).standard_normal((count, LATENT_SIZE))
    return np.asarray(z * np.sqrt(LATENT_SIZE) / np.linalg.norm(z, axis=1, keepdims=True))


def relative_of(z: Latents, other: Latents, cosine: float) -> Latents:
    """Latents (n, 512) at the given cosine from each of z, turned towards other (n, 512)."""
    across = other - z * (other * z).sum(1, keepdims=True) / np.square(z).sum(1, keepdims=True)
    across *= np.linalg.norm(z, axis=1, keepdims=True) / np.linalg.norm(
        across, axis=1, keepdims=True
    )
    return np.asarray(cosine * z + np.sqrt(1 - cosine**2) * across)


def reduced(images: Images, side: int = SIDE) -> Images:
    """Images (n, r, r, 3) as (n, side, side, 3), each pixel the mean of those it covers."""
    if images.shape[1] == side:
        return images
    resized = [Image.fromarray(i).resize((side, side), Image.Resampling.BOX) for i in images]
    return np.stack([np.asarray(image) for image in resized])


def drawings(folder: Path, name: str, z: Latents, side: int, basis_seed: int) -> Images:
    """Drawings of latents (n, 512), (n, side, side, 3), drawn where they are not yet there.

    A name stands for one sequence of latents; more of them later go on from what is there.
    """
    basis = latent_basis(basis_seed)
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    starts = range(0, len(z), CHUNK)
    for start in tqdm(starts, desc=f"drawings {name}", delay=2, disable=None):
        wanted = min(CHUNK, len(z) - start)
        path = folder / f"drawings-{basis_seed}-{name}-{side}-{start}.npy"
        part = np.load(path) if path.exists() else np.empty((0, side, side, 3), np.uint8)
        if len(part) < wanted:
            attributes = z[start + len(part) : start + wanted] @ basis
            new = np.stack([draw(row, max(side, 128)) for row in attributes])
            part = np.concatenate([part, reduced(new, side)])
            temporary = path.with_suffix(".part.npy")
            np.save(temporary, part)
            temporary.replace(path)
        parts.append(part[:wanted])
    return np.concatenate(parts)
