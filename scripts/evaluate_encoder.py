"""Measures the encoder and what it is compared with; writes a table beside the checkpoint.

    python scripts/evaluate_encoder.py --families 60 --orders 34 --threads 2

Families are drawn from a seed and widths that training does not use, and each is encoded with
its anchors in several random orders, which a convolution reads as so many models. With --zoo,
cos z is set against ICS for every pair of records in a folder.
"""

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import yaml
from encoder_baselines import OrthogonalProjection, mean_pooling
from torch import Tensor, nn
from tqdm import tqdm

from huref.encoder import load_encoder
from huref.encoder.batches import permute_anchors
from huref.encoder.embeddings import EmbeddingPool
from huref.encoder.network import build_network
from huref.encoder.synthetic import ACCIDENTS, Family, ics
from huref.invariants.extract import extract_terms
from huref.loader.checkpoint import open_checkpoint
from huref.recipe import parse_recipe

Code = Callable[[Tensor], Tensor]
GRID = [round(0.1 * i, 1) for i in range(11)]
WIDTHS = [64, 96, 192, 384, 768, 1024]
SEED = 20_240_601


def make_codes(path: Path, paper: Path | None) -> tuple[dict[str, Code], dict[str, Code]]:
    """The codes measured on everything, and those measured on the first families only."""
    encoder = load_encoder(path)
    architecture = encoder.metadata["config"]["architecture"]
    torch.manual_seed(encoder.metadata["seed"])
    untrained = build_network(architecture).eval()
    without: dict[str, Code] = {}
    for part in ("temper", "bend"):
        network = load_encoder(path).network
        for name, module in network.named_modules():
            if type(module).__name__.lower() == part:
                parent, _, leaf = name.rpartition(".")
                setattr(network.get_submodule(parent), leaf, nn.Identity())
        without[f"without {part}"] = network
    stacked = build_network(architecture | {"share_blocks": False}).eval()
    first: dict[str, Code] = {
        "projection": OrthogonalProjection(),
        "mean pooling": mean_pooling,
        "untrained": untrained,
        **without,
        "blocks stacked, untrained": stacked,
    }
    if paper is not None:
        first["paper CNN"] = load_encoder(paper).network
    return {"encoder": encoder.network}, first


@dataclass
class Measured:
    """What one code made of all points; rows match across points, "more" apart.

    latents: point -> (n, 512). rho: point -> (n,), the measured ICS with the base.
    """

    latents: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    rho: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))

    def cosines(self, point: str) -> Tensor:
        """Cos z of the base and what stands at a point."""
        base, other = (torch.stack(self.latents[p]) for p in ("base", point))
        return torch.cosine_similarity(base, other)

    @property
    def models(self) -> Tensor:
        """Latents of all bases (n, 512)."""
        return torch.stack(self.latents["base"] + self.latents["more"])


@torch.no_grad()
def measure(
    everywhere: dict[str, Code], few: dict[str, Code], families: int, orders: int, models: int
) -> dict[str, Measured]:
    """Every code at every point. The codes in `few` see each family in two orders only."""
    pool = EmbeddingPool(24, 512, WIDTHS, seed=SEED)
    found: dict[str, Measured] = defaultdict(Measured)
    for index in tqdm(range(families), unit="family", disable=None):
        generator = torch.Generator().manual_seed(SEED + index)
        family = Family(pool, generator)
        base = family.base()
        points = {"base": base, **{f"{rho}": family.relative(rho) for rho in GRID}}
        points |= {kind: family.accident(kind) for kind in ACCIDENTS}
        measured = {point: ics(base, terms) for point, terms in points.items()}
        for turn in range(orders):
            order = torch.randperm(512, generator=generator)
            codes = everywhere | (few if turn < 2 else {})
            for point, terms in points.items():
                permuted = permute_anchors(terms, order)[None]
                for name, code in codes.items():
                    found[name].latents[point].append(code(permuted)[0])
                    found[name].rho[point].append(measured[point])
        for _ in range(models // families - orders):
            order = torch.randperm(512, generator=generator)
            for name, code in everywhere.items():
                found[name].latents["more"].append(code(permute_anchors(base, order)[None])[0])
    return dict(found)


@torch.no_grad()
def measure_zoo(folder: Path, codes: dict[str, Code]) -> list[dict[str, Any]]:
    """Cos z of every code, and ICS, for every pair of models that can be read."""
    recipe_file = Path("configs/recipes/default.yaml")
    recipe = parse_recipe(yaml.safe_load(recipe_file.read_text()), str(recipe_file))
    terms: dict[str, Tensor] = {}
    for path in sorted(folder.iterdir()):
        if (path / "config.json").exists() and (path / "model.safetensors").exists():
            extract = extract_terms(open_checkpoint(str(path)), recipe)
            if extract.recipe == recipe:  # others are not compared
                terms[path.name] = extract.terms
    latents = {
        name: {k: code(t[None])[0] for k, t in terms.items()} for name, code in codes.items()
    }
    return [
        {
            "a": a,
            "b": b,
            "ics": float(ics(terms[a], terms[b])),
            "cos": {
                name: float(torch.cosine_similarity(z[a], z[b], dim=0))
                for name, z in latents.items()
            },
        }
        for a, b in combinations(terms, 2)
    ]


def stranger_cosines(latents: Tensor) -> Tensor:
    """Cosines of all pairs of rows (n, 512)."""
    unit = latents / latents.norm(dim=1, keepdim=True)
    i, j = torch.triu_indices(len(unit), len(unit), offset=1)
    cosines: Tensor = (unit @ unit.T)[i, j]
    return cosines


def kolmogorov(values: Tensor, distribution: Tensor) -> Tensor:
    """Asymptotic p-values of the Kolmogorov-Smirnov test.

    Args:
        values: (n, k), only for its size.
        distribution: (n, k), the assumed distribution function at the values.

    Returns:
        (k,) p-values.
    """
    n = len(values)
    sorted_ = distribution.double().sort(dim=0).values
    steps = torch.arange(n, dtype=torch.float64)[:, None] / n
    distance = torch.maximum(sorted_ - steps, steps + 1 / n - sorted_).amax(dim=0)
    scaled = math.sqrt(n) * distance
    k = torch.arange(1, 101, dtype=torch.float64)[:, None]
    signs = torch.where(k % 2 == 1, 2.0, -2.0)
    series: Tensor = (signs * torch.exp(-2 * k.square() * scaled.square())).sum(dim=0)
    return series.clamp(0, 1)


def gaussianity(latents: Tensor) -> dict[str, float]:
    """How far latents (n, 512) over n models are from N(0, I)."""
    n, dimensions = latents.shape
    z = latents.double()
    per_dimension = kolmogorov(z, torch.special.ndtr(z))
    square = z.square().sum(dim=1, keepdim=True)
    norm = kolmogorov(square, torch.special.gammainc(torch.tensor(dimensions / 2.0), square / 2))
    correlation = torch.corrcoef(z.T) - torch.eye(dimensions)
    return {
        "models": n,
        "smallest Bonferroni p of a dimension": min(1.0, float(per_dimension.min()) * dimensions),
        "p of the norm": float(norm),
        "mean norm": float(square.sqrt().mean()),
        "deviation of the norm": float(square.sqrt().std()),
        "largest correlation of two dimensions": float(correlation.abs().max()),
        "expected of independent ones": math.sqrt(
            2 * math.log(dimensions * (dimensions - 1) / 2) / n
        ),
    }


def summarise(measured: Measured) -> dict[str, Any]:
    """All figures of one code."""
    points = {}
    for point in [f"{rho}" for rho in GRID] + list(ACCIDENTS):
        cosines, rho = measured.cosines(point), torch.stack(measured.rho[point]).float()
        points[point] = {
            "pairs": len(cosines),
            "ics": float(rho.mean()),
            "cos": float(cosines.mean()),
            "spread": float((cosines - rho).std()),
            "least": float(cosines.min()),
        }
    apart = stranger_cosines(measured.models)
    return {
        "points": points,
        "gap": max(abs(points[f"{r}"]["cos"] - points[f"{r}"]["ics"]) for r in GRID),
        "strangers": {
            "pairs of strangers": len(apart),
            "mean |cos|": float(apart.abs().mean()),
            "spread of cos, times sqrt(512)": float(apart.std()) * math.sqrt(512),
            "largest |cos|": float(apart.abs().max()),
            "share with |cos| above 0.2": float((apart.abs() > 0.2).double().mean()),
        },
        "gaussianity": gaussianity(measured.models),
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The report as tables."""
    lines = [
        "# The encoder, measured",
        "",
        f"`{report['command']}`, {report['seconds'] / 60:.0f} min. Encoder "
        f"`{report['digest'][:12]}`. Synthetic models of seeds and widths not trained on.",
        "",
        "## cos z against ICS",
        "",
        "| rho of the factors | measured ICS | mean cos z | spread of cos z - ICS | "
        "(1 - ICS²)/√512 |",
        "|---|---|---|---|---|",
    ]
    points = report["codes"]["encoder"]["points"]
    for rho in GRID:
        p = points[f"{rho}"]
        limit = (1 - p["ics"] ** 2) / math.sqrt(512)
        lines.append(
            f"| {rho} | {p['ics']:.3f} | {p['cos']:.3f} | {p['spread']:.4f} | {limit:.4f} |"
        )
    lines += [
        "",
        f"{points['0.0']['pairs']} pairs a point.",
        "",
        "## Every code",
        "",
        "gap: the largest |mean cos z - mean ICS| on the grid. strangers: mean |cos z| of "
        "unrelated models. The rest: mean (least) cos z with the base after an accident.",
        "",
        "| code | pairs | gap | strangers | " + " | ".join(ACCIDENTS) + " |",
        "|---" * (4 + len(ACCIDENTS)) + "|",
    ]
    for name, entry in report["codes"].items():
        after = [entry["points"][kind] for kind in ACCIDENTS]
        cells = [f"{point['cos']:.3f} ({point['least']:.2f})" for point in after]
        lines.append(
            f"| {name} | {entry['points']['0.0']['pairs']} | {entry['gap']:.3f} | "
            f"{entry['strangers']['mean |cos|']:.4f} | " + " | ".join(cells) + " |"
        )
    ics_cells = [f"{points[k]['ics']:.3f}" for k in ACCIDENTS]
    lines.append("| (ICS itself) | | | | " + " | ".join(ics_cells) + " |")
    lines += ["", "## Normality and look-alikes", "", "| figure | value |", "|---|---|"]
    entry = report["codes"]["encoder"]
    for part in ("gaussianity", "strangers"):
        lines += [f"| {key} | {value:.4g} |" for key, value in entry[part].items()]
    if report["zoo"]:
        lines += zoo_table(report["zoo"])
    return "\n".join(lines) + "\n"


def zoo_table(pairs: list[dict[str, Any]]) -> list[str]:
    """Lines of the table of real models."""
    names = list(pairs[0]["cos"])
    lines = ["", "## Real models", "", "cos z by code, for every pair of the zoo.", ""]
    lines += ["| pair | ICS | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for pair in pairs:
        cells = " | ".join(f"{pair['cos'][name]:.3f}" for name in names)
        lines.append(f"| {pair['a']}, {pair['b']} | {pair['ics']:.3f} | {cells} |")
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", type=Path, default=Path("checkpoints/encoder.safetensors"))
    parser.add_argument("--paper", type=Path, help="an encoder trained by encoder-paper.yaml")
    parser.add_argument("--families", type=int, default=60)
    parser.add_argument("--orders", type=int, default=34, help="of each family's anchors")
    parser.add_argument("--models", type=int, default=5000, help="for the test of normality")
    parser.add_argument("--zoo", type=Path, default=Path("checkpoints/zoo"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/encoder-evaluation"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    began = time.monotonic()
    everywhere, few = make_codes(options.encoder, options.paper)
    measured = measure(everywhere, few, options.families, options.orders, options.models)
    report = {
        "command": f"python scripts/evaluate_encoder.py --families {options.families} "
        f"--orders {options.orders} --models {options.models}",
        "digest": load_encoder(options.encoder).digest,
        "codes": {name: summarise(code) for name, code in measured.items()},
        "zoo": measure_zoo(options.zoo, everywhere | few) if options.zoo.is_dir() else [],
        "seconds": time.monotonic() - began,
    }
    options.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(to_markdown(report))
    print(to_markdown(report))


if __name__ == "__main__":
    main()
