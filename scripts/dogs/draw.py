"""Draws contact sheets of procedural dogs: random ones, or families of decreasing cosine.

    python -m scripts.dogs draw sheet dogs.png
    python -m scripts.dogs draw kinship families.png

The shipped decoder is distilled from these drawings. `draw` takes standard normal attributes;
`latent_basis` maps latents (512,) to attributes.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from scripts import make_parser
from scripts.dogs.attributes import ATTRIBUTES, LATENT_SIZE, latent_basis
from scripts.dogs.scene import draw

__all__ = ["ATTRIBUTES", "KINSHIPS", "draw", "latent_basis", "main", "relative"]

KINSHIPS = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.5, 0.0)


def relative(z: np.ndarray, other: np.ndarray, cosine: float) -> np.ndarray:
    """A latent (512,) of z's norm at the given cosine to z, in the plane of z and other."""
    across = other - z * (other @ z) / (z @ z)
    across *= np.linalg.norm(z) / np.linalg.norm(across)
    return np.asarray(cosine * z + np.sqrt(1 - cosine**2) * across)


def _save(images: list[np.ndarray], columns: int, path: Path) -> None:
    rows = [np.hstack(images[start : start + columns]) for start in range(0, len(images), columns)]
    Image.fromarray(np.vstack(rows)).save(path)


def main(arguments: list[str] | None = None) -> None:
    """Write the contact sheet that the command line asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("kind", choices=["sheet", "kinship"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, help="default: 6 for a sheet, 8 for families")
    parser.add_argument("--columns", type=int, default=6, help="columns of a sheet")
    parser.add_argument("--size", type=int, default=128, help="pixels on a portrait's side")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    basis = latent_basis()
    if options.kind == "sheet":
        columns = options.columns
        latents = list(rng.standard_normal(((options.rows or 6) * columns, LATENT_SIZE)))
    else:
        columns = len(KINSHIPS)
        latents = []
        for _ in range(options.rows or 8):
            z = rng.standard_normal(LATENT_SIZE)
            latents += [
                relative(z, rng.standard_normal(LATENT_SIZE), cosine) for cosine in KINSHIPS
            ]
    _save([draw(z @ basis, options.size) for z in latents], columns, options.out)
