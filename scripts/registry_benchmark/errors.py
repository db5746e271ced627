"""How far a sketch's ICS lies from that of the full terms, by its size."""

from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dct
from torch import Tensor

from huref.encoder.synthetic import ics
from huref.lineage.similarity import compare_records
from huref.models import open_record
from huref.registry.entry import make_entry
from huref.registry.sketch import DIAGONALS, correlate_sketches, make_sketch, shared_entries
from registry_benchmark.families import RHOS, M, draw_families, load_family, reorder

SIZES = (2, 4, 6, 12)  # diagonals of each term
ORDERS = 6  # samples of entries for each pair
EVEN = 0.3  # the zoo's models stay below
KINDS = ("even", "uneven")
PROJECTED = "projections"
METHODS = (*map(str, SIZES), PROJECTED)
Errors = dict[str, dict[float, list[float]]]


def sketch_ics(a: Tensor, b: Tensor, diagonals: int) -> float:
    """The ICS of two models' terms (2, 3, m, m) by sketches of a size."""
    everything = np.ones((6, diagonals * M), bool)
    x, y = make_sketch(a, diagonals), make_sketch(b, diagonals)
    return float(correlate_sketches(x, y[None], everything).mean())


def projected_ics(a: Tensor, b: Tensor, signs: NDArray[np.int8], kept: NDArray[np.int64]) -> float:
    """The same by seeded projections of all entries: signs, a cosine transform, a few of it.

    Args:
        a: terms (2, 3, m, m).
        b: likewise.
        signs: (m * m,), each +1 or -1.
        kept: which coefficients are kept.
    """
    rows = []
    for terms in (a, b):
        x = terms.reshape(6, -1).numpy()
        x = (x - x.mean(axis=1, keepdims=True)) * signs
        x = dct(x, norm="ortho")[:, kept]
        rows.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    return float((rows[0] * rows[1]).sum(axis=1).mean())


def unevenness(terms: Tensor) -> float:
    """How much the strengths of a term's rows differ: deviation over mean, the largest of all."""
    strengths = terms.norm(dim=-1)
    return float((strengths.std(dim=-1) / strengths.mean(dim=-1)).max())


def measure_synthetic(folder: Path, families: int) -> tuple[dict[str, Errors], dict[str, int]]:
    """Errors by kind of family, method and nominal correlation, and how many families of a kind.

    The correlation 0.0 stands for pairs of different families.
    """
    errors: dict[str, Errors] = {
        kind: {name: {rho: [] for rho in (0.0, *RHOS)} for name in METHODS} for kind in KINDS
    }
    counts = dict.fromkeys(KINDS, 0)
    before: dict[str, Tensor] = {}
    generator, seeded = torch.Generator().manual_seed(1), np.random.default_rng(1)
    signs = seeded.choice(np.array([-1, 1], np.int8), M * M)
    kept = seeded.choice(M * M, DIAGONALS * M, replace=False)
    for path in draw_families(folder, families, relatives=True):
        terms = load_family(path)
        kind = KINDS[unevenness(terms[0]) > EVEN]
        counts[kind] += 1
        pairs = [(rho, terms[0], other) for rho, other in zip(RHOS, terms[1:], strict=True)]
        if kind in before:
            pairs.append((0.0, before[kind], terms[0]))
        before[kind] = terms[0]
        for rho, a, b in pairs:
            exact, found = float(ics(a, b)), errors[kind]
            for _ in range(ORDERS):
                both = reorder(torch.stack([a, b]), generator)
                for size in SIZES:
                    found[str(size)][rho].append(sketch_ics(both[0], both[1], size) - exact)
            found[PROJECTED][rho].append(projected_ics(a, b, signs, kept) - exact)
    return errors, counts


def measure_zoo(zoo: Path) -> list[tuple[str, str, int, float, float]]:
    """Names, shared anchors, ICS and sketch's ICS of every pair of the zoo's models."""
    folders = [p.parent for p in sorted(zoo.glob("*/*config.json")) if p.name != "manifest.json"]
    records = [open_record(str(folder)) for folder in dict.fromkeys(folders)]
    rows = []
    for a, b in combinations(records, 2):
        exact = compare_records(a, b)
        one, other = make_entry(a), make_entry(b)
        shared = shared_entries(one.anchors, other.anchors, len(one.sketch))
        estimate = correlate_sketches(one.sketch, other.sketch[None], shared)
        if exact.ics is not None and exact.shared_anchors is not None:
            names = Path(a.model).name, Path(b.model).name
            rows.append((*names, exact.shared_anchors, exact.ics, float(estimate.mean())))
    return rows


def report(folder: Path, families: int, zoo: Path) -> str:
    """Both measurements as Markdown."""
    errors, counts = measure_synthetic(folder, families)
    lines = []
    for kind in KINDS:
        lines += [
            f"{counts[kind]} synthetic families whose terms' rows are {kind} in strength, in "
            f"{ORDERS} orders of the anchors, int8 codes: root mean square error of the ICS by its "
            "nominal value, the largest error, and the share above 0.02.",
            "",
            "| numbers | "
            + " | ".join(f"rho {rho}" for rho in (0.0, *RHOS))
            + " | largest | above 0.02 |",
            "|" + " ---: |" * (4 + len(RHOS)),
        ]
        for name in METHODS:
            columns = [np.array(errors[kind][name][rho]) for rho in (0.0, *RHOS)]
            everything = np.abs(np.concatenate(columns))
            if not everything.size:
                continue
            numbers = f"{6 * (DIAGONALS if name == PROJECTED else int(name)) * M:,}"
            label = f"{numbers} {PROJECTED}" if name == PROJECTED else numbers
            label = f"**{label}**" if name == str(DIAGONALS) else label
            cells = [f"{np.sqrt(np.mean(c**2)):.4f}" if c.size else "-" for c in columns]
            share = f"{100 * np.mean(everything > 0.02):.2f} %"
            lines.append(f"| {' | '.join([label, *cells, f'{everything.max():.4f}', share])} |")
        lines.append("")
    rows = measure_zoo(zoo)
    away = np.array([estimate - exact for *_, exact, estimate in rows])
    lines += [
        f"The zoo ({len(rows)} pairs, {6 * DIAGONALS * M:,} numbers): root mean square error "
        f"{np.sqrt(np.mean(away**2)):.4f}, largest {np.abs(away).max():.4f}.",
        "",
        "| a | b | shared anchors | ICS | by sketch |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for a, b, shared_anchors, exact, estimate in rows:
        lines.append(f"| {a} | {b} | {shared_anchors} | {exact:+.4f} | {estimate:+.4f} |")
    return "\n".join(lines)
