"""How far a sketch's ICS lies from that of the full terms, by its size."""

from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from huref.encoder.synthetic import ics
from huref.lineage.similarity import compare_records
from huref.models import open_record
from huref.registry.entry import make_entry
from huref.registry.sketch import DIAGONALS, correlate_sketches, make_sketch, shared_entries
from registry_benchmark.families import RHOS, M, draw_families, load_family, reorder

SIZES = (1, 2, 4, 6, 8, 12)  # diagonals of each term
ORDERS = 12  # samples of entries for each pair


def sketch_ics(a: Tensor, b: Tensor, diagonals: int) -> float:
    """The ICS of two models' terms (2, 3, m, m) by sketches of a size."""
    everything = np.ones((6, diagonals * M), bool)
    x, y = make_sketch(a, diagonals), make_sketch(b, diagonals)
    return float(correlate_sketches(x, y[None], everything).mean())


def measure_synthetic(folder: Path, families: int) -> dict[float, dict[int, list[float]]]:
    """Errors by nominal correlation and by size; 0.0 stands for pairs of different families."""
    errors: dict[float, dict[int, list[float]]] = {
        rho: {size: [] for size in SIZES} for rho in (0.0, *RHOS)
    }
    before: Tensor | None = None
    generator = torch.Generator().manual_seed(1)
    for path in draw_families(folder, families, relatives=True):
        terms = load_family(path)
        pairs = list(zip(RHOS, [terms[0]] * len(RHOS), terms[1:], strict=True))
        if before is not None:
            pairs.append((0.0, before, terms[0]))
        before = terms[0]
        for rho, a, b in pairs:
            exact = float(ics(a, b))
            for _ in range(ORDERS):
                both = reorder(torch.stack([a, b]), generator)
                for size in SIZES:
                    errors[rho][size].append(sketch_ics(both[0], both[1], size) - exact)
    return errors


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
    errors = measure_synthetic(folder, families)
    count = sum(len(by_size[SIZES[0]]) for by_size in errors.values())
    lines = [
        f"Synthetic pairs ({families} families, {ORDERS} orders of the anchors each, {count} "
        "errors a row), int8 codes: root mean square error of the ICS by its nominal value, and "
        "the share of all errors above 0.02.",
        "",
        "| numbers | bytes | "
        + " | ".join(f"rho {rho}" for rho in errors)
        + " | largest | above 0.02 |",
        "|" + " ---: |" * (4 + len(errors)),
    ]
    for size in SIZES:
        columns = [np.array(by_size[size]) for by_size in errors.values()]
        everything = np.abs(np.concatenate(columns))
        cells = [f"{np.sqrt(np.mean(c**2)):.4f}" for c in columns]
        numbers = f"{6 * size * M:,}"
        name = f"**{numbers}**" if size == DIAGONALS else numbers
        share = f"{100 * np.mean(everything > 0.02):.2f} %"
        row = [name, numbers, *cells, f"{everything.max():.4f}", share]
        lines.append("| " + " | ".join(row) + " |")
    rows = measure_zoo(zoo)
    away = np.array([estimate - exact for *_, exact, estimate in rows])
    lines += [
        "",
        f"The zoo ({len(rows)} pairs, {6 * DIAGONALS * M:,} numbers): root mean square error "
        f"{np.sqrt(np.mean(away**2)):.4f}, largest {np.abs(away).max():.4f}.",
        "",
        "| a | b | shared anchors | ICS | by sketch |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for a, b, shared_anchors, exact, estimate in rows:
        lines.append(f"| {a} | {b} | {shared_anchors} | {exact:+.4f} | {estimate:+.4f} |")
    return "\n".join(lines)
