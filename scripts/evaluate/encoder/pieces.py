"""The work, cut into pieces that are saved as files: mixtures, families, strangers, real models.

Latents are saved, so that tables can be recomputed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from huref.encoder.embeddings import EmbeddingPool
from huref.encoder.synthetic import ACCIDENTS, Family, ics
from huref.files import replacing
from huref.invariants.terms import flatten, standardise
from scripts.evaluate.encoder.codes import Code

GRID = tuple(round(0.1 * i, 1) for i in range(11))
AFTER = (*ACCIDENTS, "swapped")  # changes of a base
FREQUENT = ("frequent a", "frequent b")  # two unrelated models with common directions
WIDTHS = [64, 96, 192, 384, 768, 1024, 2048, 4096]  # the encoder trains on three of them
SEED = 20_240_601
CHUNK = 12  # strangers per piece; they share embeddings, in different orders
Latents = dict[str, Tensor]  # point -> (orders, 512)
UNEVEN = 0.5  # coefficient of variation of the rows' energy


@dataclass(frozen=True)
class Work:
    """One piece: its file and the function that computes it."""

    path: Path
    make: Callable[[], Any]

    def run(self) -> None:
        """Compute the piece and write it atomically."""
        value = self.make()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary:
            torch.save(value, temporary)


def nominal(rho: float) -> float:
    """Correlation of factors that gives an ICS of about `rho` after flattening."""
    return rho + 0.15 * rho * (1 - rho)


def habits(family: Family, base: Tensor) -> list[str]:
    """Names of a family's deviations from the ideal, from its shape and base terms (2, 3, m, m)."""
    energy = standardise(base).square().mean(dim=-1)
    variation = float((energy.std(dim=-1) / energy.mean(dim=-1)).mean())
    present = {
        "heavy-tailed weights": family.shape.heavy,
        "steep spectrum": family.shape.decay > 0.3,
        "narrow (64 or 96)": family.shape.width <= 96,
        "uneven rows": variation > UNEVEN,
        "empty buckets": float((energy[0, 0] < 1e-6).double().mean()) > 0.05,
    }
    return [name for name, is_present in present.items() if is_present] or ["none of these"]


def encode(code: Code, terms: Tensor, orders: list[Tensor]) -> Tensor:
    """Latents (orders, 512) of terms (2, 3, m, m) with the anchors in each of the orders."""
    prepared = code.prepare(terms[None])[0]
    return torch.cat(
        [
            code.finish(torch.stack([code.reorder(prepared, order) for order in some]))
            for some in (orders[i : i + 8] for i in range(0, len(orders), 8))
        ]
    )


def with_common_directions(
    a: Tensor, b: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Add eight common directions, of four times their energy, to the terms of two models.

    In trained models token frequency has this effect. Spectra are flattened afterwards, as in every
    model.
    """
    m = a.shape[-1]
    left, right = (torch.randn(2, 3, m, 8, generator=generator) for _ in range(2))
    common = 2 * standardise(left @ right.mT)
    changed = [flatten(common.masked_fill(t == 0, 0.0) + standardise(t)) for t in (a, b)]
    return changed[0], changed[1]


def orders_at(point: str, code: Code) -> int:
    """Number of orders of the anchors in which a code encodes a point."""
    if point == "base":
        return max(code.orders)
    return code.orders[point not in map(str, GRID)]


@torch.no_grad()
def measure_family(index: int, codes: dict[str, Code]) -> dict[str, Any]:
    """Encode one family at every point by every code.

    Returns:
        "habits"; "ics": point -> measured ICS with the base; "latents": code -> point ->
        (orders, 512), in which rows of one code match across points.
    """
    generator = torch.Generator().manual_seed(SEED + index)
    family = Family(EmbeddingPool(1, 512, WIDTHS, seed=SEED + index), generator)
    base = family.base()
    points = {"base": base, **{f"{rho}": family.relative(nominal(rho)) for rho in GRID}}
    points |= {kind: family.accident(kind) for kind in ACCIDENTS}
    points["swapped"] = base.flip(0)
    measured = {point: float(ics(base, terms)) for point, terms in points.items()}
    frequent = with_common_directions(base, points["0.0"], generator)
    points |= dict(zip(FREQUENT, frequent, strict=True))
    measured[FREQUENT[1]] = float(ics(*frequent))
    most = max(max(code.orders) for code in codes.values())
    orders = [torch.randperm(512, generator=generator) for _ in range(most)]
    latents = {
        name: {
            point: encode(code, terms, orders[: orders_at(point, code)])
            for point, terms in points.items()
        }
        for name, code in codes.items()
    }
    return {"habits": habits(family, base), "ics": measured, "latents": latents}


@torch.no_grad()
def measure_strangers(chunk: int, codes: dict[str, Code]) -> dict[str, Tensor]:
    """By code, latents (models, orders, 512) of independent models."""
    encoding = {name: code for name, code in codes.items() if code.strangers}
    found: dict[str, list[Tensor]] = {name: [] for name in encoding}
    seed = SEED + 1_000_000 + chunk
    pool = EmbeddingPool(1, 512, WIDTHS, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    most = max(code.strangers for code in encoding.values())
    for _ in range(CHUNK):
        base = Family(pool, generator).base()
        orders = [torch.randperm(512, generator=generator) for _ in range(most)]
        for name, code in encoding.items():
            found[name].append(encode(code, base, orders[: code.strangers]))
    return {name: torch.stack(rows) for name, rows in found.items()}


def encode_mixtures(code: Code, base: Tensor, other: Tensor, orders: list[Tensor]) -> Latents:
    """By point, latents of `base` and of inputs with correlation rho to it."""
    shares = {f"{rho}": (rho, math.sqrt(1 - rho * rho)) for rho in GRID}
    if code.linear:
        a, b = (encode(code, terms, orders) for terms in (base, other))
        return {"base": a} | {point: s * a + n * b for point, (s, n) in shares.items()}
    return {"base": encode(code, base, orders)} | {
        point: encode(code, s * base + n * other, orders) for point, (s, n) in shares.items()
    }


@torch.no_grad()
def measure_mixtures(index: int, codes: dict[str, Code]) -> dict[str, Latents]:
    """Encode one family's inputs of exact correlation by every code.

    An input of correlation rho is rho times the base's standardised terms and sqrt(1 - rho^2)
    times those of a model of the same sizes and habits whose weights are independent.

    Returns:
        code -> point -> (orders, 512).
    """
    seed = SEED + 4_000_000 + index
    generator = torch.Generator().manual_seed(seed)
    family = Family(EmbeddingPool(1, 512, WIDTHS, seed=seed), generator)
    base, other = standardise(family.base()), standardise(family.relative(0.0))
    most = max(code.mixtures for code in codes.values())
    orders = [torch.randperm(512, generator=generator) for _ in range(most)]
    return {
        name: encode_mixtures(code, base, other, orders[: code.mixtures])
        for name, code in codes.items()
        if code.mixtures
    }
