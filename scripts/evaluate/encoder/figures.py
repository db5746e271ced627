"""Figures computed from latents."""

import math
from typing import Any

import torch
from torch import Tensor

from scripts.evaluate.encoder.pieces import AFTER, FREQUENT, GRID

LOOK_ALIKE = 0.2


def kolmogorov(distribution: Tensor) -> Tensor:
    """Asymptotic p-values of the Kolmogorov-Smirnov test.

    Args:
        distribution: (n, k), the values of the assumed distribution function at the samples.

    Returns:
        (k,) p-values.
    """
    n = len(distribution)
    sorted_ = distribution.double().sort(dim=0).values
    steps = torch.arange(n, dtype=torch.float64)[:, None] / n
    distance = torch.maximum(sorted_ - steps, steps + 1 / n - sorted_).amax(dim=0)
    scaled = math.sqrt(n) * distance
    k = torch.arange(1, 101, dtype=torch.float64)[:, None]
    signs = torch.where(k % 2 == 1, 2.0, -2.0)
    series: Tensor = (signs * torch.exp(-2 * k.square() * scaled.square())).sum(dim=0)
    # At tiny distances the series does not converge; the p-value is 1.
    return torch.where(scaled < 0.2, 1.0, series.clamp(0, 1))


def gaussianity(latents: Tensor) -> dict[str, float]:
    """Tests of latents (n, 512) of n models against N(0, I)."""
    n, dimensions = latents.shape
    z = latents.double()
    per_dimension = kolmogorov(torch.special.ndtr(z))
    square = z.square().sum(dim=1, keepdim=True)
    half = torch.tensor(dimensions / 2.0, dtype=torch.float64)
    norm = kolmogorov(torch.special.gammainc(half, square / 2))
    correlation = torch.corrcoef(z.T) - torch.eye(dimensions)
    pairs = dimensions * (dimensions - 1) / 2
    return {
        "models": n,
        "per-dimension KS, smallest p times 512": min(1.0, float(per_dimension.min()) * dimensions),
        "dimensions with p < 0.05 (25.6 expected)": float((per_dimension < 0.05).sum()),
        "KS of the squared norm against chi squared, p": float(norm),
        "mean norm (22.62 of N(0, I))": float(square.sqrt().mean()),
        "spread of the norm (0.707 of N(0, I))": float(square.sqrt().std()),
        "largest correlation of two dimensions": float(correlation.abs().max()),
        "the same of independent ones, about": math.sqrt(2 * math.log(pairs) / n),
    }


def strangers(latents: Tensor, least: int) -> dict[str, float]:
    """Cosines between independently drawn models.

    Args:
        latents: (draws, orders, 512).
        least: required number of pairs; it determines how many orders of each draw are used.
            Orders of one draw are not independent, so their pairs are reported separately.
    """
    draws, orders, _ = latents.shape
    taken = min(orders, math.ceil((1 + math.sqrt(1 + 8 * least)) / 2 / draws))
    rows = latents[:, :taken].flatten(0, 1)
    unit = rows / rows.norm(dim=1, keepdim=True)
    i, j = torch.triu_indices(len(unit), len(unit), offset=1)
    every = (unit @ unit.T)[i, j].abs()
    within = i // taken == j // taken
    cosines, same = every[~within], every[within]
    return {
        "independent draws": draws,
        "orders of each": taken,
        "pairs of different draws": len(cosines),
        "mean |cos| (0.0353 of N(0, I))": float(cosines.mean()),
        "spread of cos times sqrt(512)": float(cosines.square().mean().sqrt()) * math.sqrt(512),
        "largest |cos|": float(cosines.max()),
        f"share with |cos| above {LOOK_ALIKE}": float((cosines > LOOK_ALIKE).double().mean()),
        "mean |cos| of two orders of one draw": float(same.mean()),
    }


def expected_share(pairs: int) -> str:
    """Share and number of pairs above `LOOK_ALIKE` for independent Gaussian latents."""
    share = math.erfc(LOOK_ALIKE * math.sqrt(512) / math.sqrt(2))
    return f"{share:.1e}, {share * pairs:.0f} pairs"


def cosines_at(family: dict[str, Any], code: str, origin: str, point: str) -> Tensor:
    """Cos z (orders,) of a family's models at two points, over their common orders."""
    a, b = (family["latents"][code][name] for name in (origin, point))
    count = min(len(a), len(b))
    return torch.cosine_similarity(a[:count], b[:count])


def at_points(families: list[dict[str, Any]], code: str) -> dict[str, dict[str, float]]:
    """Statistics of cos z at every point: mean, standard error, spread, minimum, ICS.

    Orders of one family are not independent, so standard errors are computed between families.
    """
    found = {}
    for point in (*map(str, GRID), *AFTER, FREQUENT[1]):
        seen = [f for f in families if point in f["latents"].get(code, {})]
        origin = FREQUENT[0] if point == FREQUENT[1] else "base"
        cosines = [cosines_at(f, code, origin, point) for f in seen]
        rho = torch.tensor([f["ics"][point] for f in seen])
        off = [cosine - ics for cosine, ics in zip(cosines, rho, strict=True)]
        every = torch.cat(cosines)
        means = torch.stack([o.mean() for o in off])
        found[point] = {
            "pairs": len(every),
            "ics": float(rho.mean()),
            "cos": float(every.mean()),
            "error": float(means.std()) / math.sqrt(len(seen)),
            "spread": float(torch.cat(off).std()),
            "least": float(every.min()),
            "worst family": float(min(c.mean() for c in cosines)),
        }
    return found


def at_mixtures(mixtures: list[dict[str, Any]], code: str) -> dict[float, dict[str, float]]:
    """Statistics of cos z by exact correlation: mean, standard error, spread, pairs."""
    seen = [one[code] for one in mixtures if code in one]
    found = {}
    for rho in GRID:
        cosines = [torch.cosine_similarity(z["base"], z[f"{rho}"]) for z in seen]
        every, means = torch.cat(cosines), torch.stack([c.mean() for c in cosines])
        found[rho] = {
            "pairs": len(every),
            "cos": float(every.mean()),
            "error": float(means.std()) / math.sqrt(len(seen)),
            "spread": float(every.std()),
        }
    return found


def by_habit(families: list[dict[str, Any]], code: str, point: str) -> dict[str, list[float]]:
    """For each habit: number of families, their mean ICS and mean cos z at a point."""
    found: dict[str, list[list[float]]] = {}
    for family in (f for f in families if code in f["latents"]):
        cosine = float(cosines_at(family, code, "base", point).mean())
        for habit in family["habits"]:
            found.setdefault(habit, []).append([family["ics"][point], cosine])
    return {
        habit: [len(rows), *torch.tensor(rows).mean(dim=0).tolist()]
        for habit, rows in found.items()
    }


def gain(families: list[dict[str, Any]], code: str, other: str, point: str) -> tuple[float, float]:
    """Mean difference of cos z between two codes on the same pairs, and its standard error."""
    differences = []
    for family in families:
        if all(point in family["latents"].get(name, {}) for name in (code, other)):
            first, second = (cosines_at(family, c, "base", point) for c in (code, other))
            count = min(len(first), len(second))
            differences.append(float((first[:count] - second[:count]).mean()))
    values = torch.tensor(differences)
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))
