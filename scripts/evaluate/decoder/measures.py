"""Measures of a decoder: fidelity, traits, Fréchet distance, smoothness, identification."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from scripts.decoder.loss import psnr
from scripts.evaluate.decoder.drawings import Images, Latents, latents_of, relative_of
from scripts.evaluate.decoder.regressor import TRAITS, Array

SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, finest scale first
STEP = 3.0  # degrees between neighbouring latents on a path
SUBSTEPS = 6  # parts of the steepest step
Render = Callable[[str, Latents], Images]


def to_colours(images: Images) -> Tensor:
    """Convert images (n, r, r, 3) uint8 to colours (n, 3, r, r) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def fidelity(output: Images, target: Images) -> dict[str, float]:
    """PSNR in dB and multi-scale SSIM of pictures against the drawings of the same latents.

    Up to 160 px five scales do not fit the 11-pixel window; the four finest are used, with their
    published weights scaled to the same sum.
    """
    made, drawn = to_colours(output), to_colours(target)
    weights = SSIM_WEIGHTS if output.shape[1] > 160 else SSIM_WEIGHTS[:4]
    betas = tuple(w * sum(SSIM_WEIGHTS) / sum(weights) for w in weights)
    ssim = multiscale_structural_similarity_index_measure(
        (made + 1) / 2, (drawn + 1) / 2, data_range=1.0, betas=betas, normalize="relu"
    )
    return {"psnr": psnr(made, drawn), "ms_ssim": float(ssim)}


def twice_as_large(made: Images, drawn: Images, large: Images) -> dict[str, float]:
    """What a stage of twice the resolution could add to a decoder.

    Args:
        made: pictures (n, r, r, 3).
        drawn: drawings (n, r, r, 3) of the same latents.
        large: the same drawings, (n, 2 r, 2 r, 3).

    Returns:
        PSNR in dB against the large drawings, and mean horizontal gradient in grey levels, of
        pictures and of drawings enlarged by Lanczos; `large`, the gradient of the large drawings.
    """
    side, figures = large.shape[1], {"large": _gradient(large)}
    for name, images in (("pictures", made), ("drawings", drawn)):
        resized = [
            Image.fromarray(i).resize((side, side), Image.Resampling.LANCZOS) for i in images
        ]
        enlarged = np.stack([np.asarray(image) for image in resized])
        figures[f"{name}, psnr"] = psnr(to_colours(enlarged), to_colours(large))
        figures[f"{name}, gradient"] = _gradient(enlarged)
    return figures


def _gradient(images: Images) -> float:
    return float(np.abs(np.diff(images.astype(np.int16), axis=2)).mean())


def explained(seen: Array, truth: Array) -> dict[str, float]:
    """R^2 of each trait, from predicted and true traits (n, traits)."""
    error, spread = np.square(seen - truth).mean(0), truth.var(0)
    return {name: float(1 - e / s) for name, e, s in zip(TRAITS, error, spread, strict=True)}


def frechet(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Fréchet distance of Gaussians fitted to two sets of features (n, d)."""
    first, second = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    # cov_a cov_b is similar to root @ cov_b @ root, so their square roots have the same trace.
    mixed = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)).sum()
    shift = np.square(first.mean(0) - second.mean(0)).sum()
    return float(shift + np.trace(cov_a) + np.trace(cov_b) - 2 * mixed)


def distances(a: NDArray[np.generic], b: NDArray[np.generic]) -> NDArray[np.float64]:
    """Root mean square differences (n, m) of every a (n, ...) and every b (m, ...)."""
    x, y = (np.asarray(v, dtype=np.float64).reshape(len(v), -1) for v in (a, b))
    squares = np.square(x).mean(1)[:, None] + np.square(y).mean(1)[None, :]
    return np.asarray(np.sqrt((squares - 2 * (x @ y.T) / x.shape[1]).clip(min=0)))


def smoothness(render: Render, paths: int) -> dict[str, float | list[float]]:
    """How far a picture (64 px) changes as its latent is rotated from 0 to 90 degrees.

    Returns:
        curve: mean pixel distance to the start at 0, 15, ... 90 degrees, divided by that of random
            pairs.
        monotone: share of steps of 3 degrees that increase the mean distance to the start.
        steepest: largest step divided by its path's mean step; maximum over paths.
        abrupt: that step in six parts of half a degree: the largest part divided by their sum, 1/6
            for equal parts and 1 for a jump.
    """
    starts, ends = latents_of(10, paths), latents_of(11, paths)
    angles = np.arange(0, 90 + STEP / 2, STEP)
    points = [relative_of(starts, ends, math.cos(math.radians(angle))) for angle in angles]
    images = render("paths", np.concatenate(points)).reshape(len(angles), paths, 64, 64, 3)
    images = images.astype(np.float64)
    strangers = distances(images[0], images[0])[np.triu_indices(paths, 1)].mean()
    away = np.sqrt(np.square(images - images[:1]).mean((2, 3, 4))) / strangers
    steps = np.sqrt(np.square(np.diff(images, axis=0)).mean((2, 3, 4)))
    mean = away.mean(1)
    path = int((steps.max(0) / steps.mean(0)).argmax())
    at = angles[int(steps[:, path].argmax())] + np.arange(SUBSTEPS + 1) * STEP / SUBSTEPS
    near = [relative_of(starts[[path]], ends[[path]], math.cos(math.radians(a))) for a in at]
    close = render("steepest", np.concatenate(near)).astype(np.float64)
    small = np.sqrt(np.square(np.diff(close, axis=0)).mean((1, 2, 3)))
    return {
        "curve": [float(mean[round(angle / STEP)]) for angle in range(0, 91, 15)],
        "monotone": float((np.diff(mean) > 0).mean()),
        "steepest": float((steps.max(0) / steps.mean(0)).max()),
        "abrupt": float(small.max() / small.sum()),
    }


@dataclass(frozen=True)
class Families:
    """Bases (n, ...), and for each cosine their relatives in the same order, repeatedly."""

    base: NDArray[np.generic]
    relatives: Mapping[float, NDArray[np.generic]]


def identification(families: Families, strangers: NDArray[np.generic]) -> dict[str, float]:
    """How often a relative's nearest base is its own, and how many random pairs are as near.

    Args:
        families: pictures or predicted traits.
        strangers: pictures or predicted traits (m, ...) of independent latents.

    Returns:
        For each cosine: `found`, the share of relatives whose nearest base is their own; `within`,
        the 95 % quantile of relatives' distances to their base, divided by the median distance of
        random pairs; and `look_alikes`, the share of 10,000 random pairs up to that quantile.
    """
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, len(strangers), (2, 12_000))
    apart = first != second
    x, y = (np.asarray(strangers[i[apart]][:10_000], dtype=np.float32) for i in (first, second))
    between = np.sqrt(np.square(x - y).reshape(len(x), -1).mean(1))
    figures: dict[str, float] = {"pairs": float(len(between))}
    for cosine, relatives in families.relatives.items():
        table = distances(relatives, families.base)
        own = np.arange(len(relatives)) % len(families.base)
        figures[f"found {cosine}"] = float((table.argmin(1) == own).mean())
        near = float(np.quantile(table[np.arange(len(own)), own], 0.95))
        figures[f"within {cosine}"] = near / float(np.median(between))
        figures[f"look_alikes {cosine}"] = float((between <= near).mean())
    return figures
