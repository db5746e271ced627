"""Error of the ICS by a sketch against that of the full terms, by size of the sketch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from huref.api.open import open_record
from huref.lineage.similarity import compare_records
from huref.registry.correlation import (
    anchor_ratio,
    correlate_sketches,
    correlate_terms,
    ics_deviation,
    norm_ratio,
)
from huref.registry.entry import make_entry, make_query
from huref.registry.matrices import from_entries
from huref.registry.ranking import Ranking
from huref.registry.sketch import KEPT, pack, project
from scripts.benchmark.registry.families import RHOS, M, draw_families, load_family, reorder

SIZES = (1024, 2048, 4096, 8192, 16384)  # projections of each term
ORDERS = 3  # orders of the anchors for each pair, as samples of the projections
EVEN = 0.3  # bound on `unevenness`; all models of the zoo are below it
LIMIT = 0.02  # required accuracy
PARTLY = 342  # two thirds of the anchors, as independently trained tokenizers share
SHARED = (M, PARTLY)
METHODS = ("model against sketch", "two sketches", "float32 in the same bytes")
STRANGERS = 0.0  # nominal ICS of pairs of different families


@dataclass(frozen=True)
class Error:
    """The error of one estimate.

    Attributes:
        even: whether `unevenness` is at most `EVEN`.
        shared: number of shared anchors.
        rho: nominal ICS.
        kept: projections of each term.
        method: one of `METHODS`.
        error: estimate less exact ICS.
    """

    even: bool
    shared: int
    rho: float
    kept: int
    method: str
    error: float


def unevenness(terms: Tensor) -> float:
    """Standard deviation over mean of the norms of a term's rows; the maximum over terms."""
    strengths = terms.norm(dim=-1)
    return float((strengths.std(dim=-1) / strengths.mean(dim=-1)).max())


def exact_ics(a: Tensor, b: Tensor, used: NDArray[np.bool_]) -> float:
    """ICS of terms (2, 3, m, m) over the used anchors, in float64."""
    flat = [t[:, :, used][:, :, :, used].reshape(6, -1).double() for t in (a, b)]
    x, y = (t - t.mean(dim=1, keepdim=True) for t in flat)
    return float(((x * y).sum(dim=1) / (x.norm(dim=1) * y.norm(dim=1))).mean())


def estimate(a: Tensor, b: Tensor, used: NDArray[np.bool_]) -> dict[tuple[int, str], float]:
    """Estimated ICS of two models' terms (2, 3, m, m), by (kept, method)."""
    everything = np.ones(M, bool)
    count, largest = int(used.sum()), SIZES[-1]
    own, all_a, all_b = (
        project(t, anchors, largest) for t, anchors in ((a, used), (a, everything), (b, everything))
    )
    factor, found = norm_ratio(a, used, everything), {}
    for kept in SIZES:
        part = own[:, :kept] / np.linalg.norm(own[:, :kept], axis=1, keepdims=True)
        signs = pack(all_b[:, :kept])
        by_terms = (factor * correlate_terms(part, signs[None])).mean()
        by_signs = (
            anchor_ratio(count, M, M)
            * correlate_sketches(pack(all_a[:, :kept]), signs[None]).mean()
        )
        few = kept // 32
        x, y = all_a[:, :few], all_b[:, :few]
        products = (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
        by_floats = anchor_ratio(count, M, M) * products.mean()
        for method, value in zip(METHODS, (by_terms, by_signs, by_floats), strict=True):
            found[kept, method] = float(np.clip(value, -1, 1))
    return found


def measure_synthetic(folder: Path, families: int) -> list[Error]:
    """Errors for synthetic bases with their relatives and with another family's base."""
    errors = []
    before: dict[bool, Tensor] = {}
    generator = torch.Generator().manual_seed(1)
    for path in draw_families(folder, families, relatives=True):
        terms = load_family(path)
        even = unevenness(terms[0]) <= EVEN
        pairs = list(zip(RHOS, terms[1:], strict=True))
        if even in before:
            pairs.append((STRANGERS, before[even]))
            for rho, other in pairs:
                for _ in range(ORDERS):
                    a, b = reorder(torch.stack([terms[0], other]), generator)
                    for shared in SHARED:
                        errors += _errors(a, b, shared, even, rho)
        before[even] = terms[0]
    return errors


def _errors(a: Tensor, b: Tensor, shared: int, even: bool, rho: float) -> list[Error]:
    """Errors of a pair of which only the first `shared` anchors have the same tokens."""
    used = np.arange(M) < shared
    place = torch.arange(M)
    place[shared:] = place[shared:].roll(1)
    b = b[..., place[:, None], place]
    exact = exact_ics(a, b, used)
    return [
        Error(even, shared, rho, kept, method, value - exact)
        for (kept, method), value in estimate(a, b, used).items()
    ]


def measure_zoo(zoo: Path) -> list[tuple[str, str, int, float, float]]:
    """Names, shared anchors, ICS and sketch's ICS of every ordered pair of the zoo's models."""
    folders = [p.parent for p in sorted(zoo.glob("*/*config.json")) if p.name != "manifest.json"]
    records = [open_record(str(folder)) for folder in dict.fromkeys(folders)]
    entries, rows = [make_entry(record) for record in records], []
    for i, j in permutations(range(len(records)), 2):
        exact = compare_records(records[i], records[j])
        found = Ranking(make_query(records[i]))(from_entries([entries[j]]))[1]
        if exact.ics is not None and exact.shared_anchors is not None and found is not None:
            names = Path(records[i].model).name, Path(records[j].model).name
            rows.append((*names, exact.shared_anchors, exact.ics, float(found.mean())))
    return rows


def theory(kept: int, method: str) -> float:
    """Theoretical standard deviation of a stranger's ICS by `kept` projections of each term."""
    if method == METHODS[2]:
        return 1 / math.sqrt(6 * kept // 32)
    return ics_deviation(6 * kept, measured=method == METHODS[0])


def tabulate(errors: list[Error], shared: int, sizes: Sequence[int]) -> list[str]:
    """The errors by size as a Markdown table."""
    head = ["bytes", "projections", "compared", "rows", "theory, rho 0"]
    head += [f"rho {rho:g}" for rho in (STRANGERS, *RHOS)]
    head += ["95 %", "99 %", "largest", f"above {LIMIT}"]
    lines = ["| " + " | ".join(head) + " |", "| ---: | ---: | --- | --- |" + " ---: |" * 11]
    for kept in sizes:
        for method in METHODS:
            for even in (True, False):
                key = (kept, method, even, shared)
                chosen = [e for e in errors if (e.kept, e.method, e.even, e.shared) == key]
                away = np.abs([e.error for e in chosen])
                rms = [
                    math.sqrt(np.mean([e.error**2 for e in chosen if e.rho == rho]))
                    for rho in (STRANGERS, *RHOS)
                ]
                size = f"{6 * kept // 8:,}"
                expected = theory(kept, method) * (M / shared) ** (1 + (method != METHODS[0]))
                cells = [
                    f"**{size}**" if kept == KEPT else size,
                    f"{6 * kept // (32 if method == METHODS[2] else 1):,}",
                    method,
                    "even" if even else "uneven",
                    f"{expected:.4f}",
                    *(f"{value:.4f}" for value in rms),
                    *(f"{np.quantile(away, q):.4f}" for q in (0.95, 0.99, 1)),
                    f"{100 * np.mean(away > LIMIT):.1f} %",
                ]
                lines.append("| " + " | ".join(cells) + " |")
    return lines


def report(folder: Path, families: int, zoo: Path) -> str:
    """Both measurements as Markdown."""
    errors = measure_synthetic(folder, families)
    lines = []
    for shared in SHARED:
        pairs = sum((e.kept, e.method, e.shared) == (KEPT, METHODS[0], shared) for e in errors)
        sizes = SIZES if shared == M else (KEPT,)
        lines += [f"{shared} of {M} anchors shared, {pairs} pairs, root mean square error by the "
                  "nominal ICS:", "", *tabulate(errors, shared, sizes), ""]  # fmt: skip
    rows = measure_zoo(zoo)
    away = np.array([found - exact for *_, exact, found in rows])
    lines += [
        f"The zoo ({len(rows)} pairs, model against sketch, {6 * KEPT // 8:,} bytes): root mean "
        f"square error {np.sqrt(np.mean(away**2)):.4f}, largest {np.abs(away).max():.4f}.",
        "",
        "| model | sketch of | shared anchors | ICS | by sketch |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for a, b, shared_anchors, exact, found in rows:
        lines.append(f"| {a} | {b} | {shared_anchors} | {exact:+.4f} | {found:+.4f} |")
    return "\n".join(lines)
