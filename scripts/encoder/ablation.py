"""The test pairs of the ablation, the measurement, and the table."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from huref.encoder.embeddings import EmbeddingPool
from huref.encoder.synthetic import Family, ics
from scripts.evaluate.encoder.pieces import SEED, with_common_directions

GRID = (0.3, 0.6, 0.9)
AFTER = ("anchors", "moved", "missing", "int4")
WORST = 0.05  # share of families averaged as "the worst"


@dataclass(frozen=True)
class ModelPairs:
    """Pairs of models at each point of the test.

    Attributes:
        first, second: point -> terms (families, 2, 3, m, m).
        ics: point -> ICS (families,).
    """

    first: dict[str, Tensor]
    second: dict[str, Tensor]
    ics: dict[str, Tensor]


@torch.no_grad()
def draw_test(families: int, anchors: int, widths: list[int]) -> dict[str, dict[str, Tensor]]:
    """Pairs of families whose seeds training does not use, each with its own embeddings."""
    first: dict[str, list[Tensor]] = {}
    second: dict[str, list[Tensor]] = {}
    for index in tqdm(range(families), desc="families", disable=None):
        seed = SEED + 3_000_000 + index
        generator = torch.Generator().manual_seed(seed)
        family = Family(EmbeddingPool(1, anchors, widths, seed), generator)
        base = family.base()
        stranger = family.relative(0.0)
        pairs = {"strangers": (base, stranger)}
        pairs |= {f"{rho}": (base, family.relative(rho)) for rho in GRID}
        pairs |= {kind: (base, family.accident(kind)) for kind in AFTER}
        pairs["common directions"] = with_common_directions(base, stranger, generator)
        for point, (a, b) in pairs.items():
            first.setdefault(point, []).append(a)
            second.setdefault(point, []).append(b)
    one, other = ({p: torch.stack(x) for p, x in part.items()} for part in (first, second))
    return asdict(ModelPairs(one, other, {p: ics(one[p], other[p]).float() for p in one}))


@torch.no_grad()
def measure(network: Callable[[Tensor], Tensor], test: ModelPairs) -> dict[str, Tensor]:
    """Return point -> cos z (families,)."""
    found = {}
    for point, first in test.first.items():
        one, other = (
            torch.cat([network(terms[i : i + 8]) for i in range(0, len(terms), 8)])
            for terms in (first, test.second[point])
        )
        found[point] = torch.cosine_similarity(one, other)
    return found


def _cell(cosines: Tensor, reference: Tensor) -> str:
    difference = cosines - reference
    error = float(difference.std()) / len(difference) ** 0.5
    return f"{float(difference.mean()):+.4f} ± {error:.4f}"


def _low(cosines: Tensor) -> float:
    """Mean cos z of the worst families."""
    count = max(1, round(WORST * len(cosines)))
    return float(cosines.sort().values[:count].mean())


def to_table(
    about: str,
    found: dict[str, dict[str, Tensor]],
    floors: dict[str, list[float]],
    test: ModelPairs,
) -> str:
    """The report: every run beside ICS, and the differences between runs.

    Args:
        about: the command that made it.
        found: run -> point -> cos z (families,).
        floors: run -> logarithms of the learned floors by term; empty if it has none.
        test: the pairs that were measured.
    """
    points = list(test.ics)
    families = len(next(iter(test.ics.values())))
    head = "| " + " | ".join(["run", *points, "worst after anchors", "floors"]) + " |"
    lines = [
        "# The encoder's loss, a part off at a time",
        "",
        about + f": {families} families drawn independently, one pair each at every point. At 0.3 "
        "to 0.9: cos z less the pair's ICS. Elsewhere mean cos z; for strangers its root mean "
        "square (at least 0.0442). Worst: the mean over the worst twentieth of the families. "
        "Floors: the learned logarithms, by term; e^1.5 affects hardly any row.",
        "",
        head,
        "|" + " --- |" * (len(points) + 3),
    ]
    for run, cosines in found.items():
        cells = []
        for point in points:
            mean = float(cosines[point].mean())
            if point == "strangers":
                cells.append(f"{float(cosines[point].square().mean().sqrt()):.4f}")
            elif point in map(str, GRID):
                cells.append(_cell(cosines[point], test.ics[point]))
            else:
                cells.append(f"{mean:.4f}")
        cells += [f"{_low(cosines['anchors']):.3f}", " ".join(map(str, floors.get(run, [])))]
        lines.append(f"| {run} | " + " | ".join(cells) + " |")
    measured = [f"{float(test.ics[point].mean()):.4f}" for point in points]
    lines.append(
        "| (ICS) | " + " | ".join([*measured, f"{_low(test.ics['anchors']):.3f}", ""]) + " |"
    )
    shown = [point for point in points if point != "strangers"]
    lines += ["", "One run less another, on the same pairs, ± the standard error:", ""]
    lines.append("| | " + " | ".join(shown) + " |")
    lines.append("|" + " --- |" * (len(shown) + 1))
    pairs = [("whole", run) for run in found if run != "whole" and not run.startswith("neutral")]
    neutral = "neutral, untrained"
    pairs += [(run, neutral) for run in found if run.startswith("neutral") and run != neutral]
    for one, other in pairs:
        cells = [_cell(found[one][point], found[other][point]) for point in shown]
        lines.append(f"| {one} less {other} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
