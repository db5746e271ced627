"""Drawings for the evaluation, cached in a folder; none of them is used in training.

Latents have seeds that the training's shards do not use. Images are uint8 of the requested size,
reduced from drawings of 128 px or more.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from huref.recipe import LATENT_SIZE
from scripts.dogs.draw import draw, latent_basis

SIDE = 64  # pixels on a side of the regressor's input
FIRST_SEED = 1 << 40  # training shards are numbered from 0; the held-out shard is 2^30
CHUNK = 512  # drawings per file

Latents = NDArray[np.float64]
Images = NDArray[np.uint8]


def latents_of(seed: int, count: int) -> Latents:
    """Latents (count, 512) of norm sqrt(512); no training uses these seeds."""
    z = np.random.default_rng(FIRST_SEED + seed).standard_normal((count, LATENT_SIZE))
    return np.asarray(z * np.sqrt(LATENT_SIZE) / np.linalg.norm(z, axis=1, keepdims=True))


def relative_of(z: Latents, other: Latents, cosine: float) -> Latents:
    """Latents (n, 512) at the given cosine to z, in the plane of z and other (n, 512)."""
    across = other - z * (other * z).sum(1, keepdims=True) / np.square(z).sum(1, keepdims=True)
    across *= np.linalg.norm(z, axis=1, keepdims=True) / np.linalg.norm(
        across, axis=1, keepdims=True
    )
    return np.asarray(cosine * z + np.sqrt(1 - cosine**2) * across)


def reduced(images: Images, side: int = SIDE) -> Images:
    """Reduce images (n, r, r, 3) to (n, side, side, 3) by averaging."""
    if images.shape[1] == side:
        return images
    resized = [Image.fromarray(i).resize((side, side), Image.Resampling.BOX) for i in images]
    return np.stack([np.asarray(image) for image in resized])


def drawings(folder: Path, name: str, z: Latents, side: int, basis_seed: int) -> Images:
    """Drawings (n, side, side, 3) of latents (n, 512), cached by name.

    A name must always be used with the same sequence of latents; a longer sequence extends it.
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
