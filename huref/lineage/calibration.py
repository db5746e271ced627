"""How often the verdicts were wrong on models that are known to be independent.

`python -m scripts.evaluate lineage` measures it and writes `configs/lineage.json`:
{"independent_pairs": pairs, "called_related": of them, "recipe": by which they were measured,
"command": what reproduces it}.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from scipy.special import betaincinv

from huref.assets import locate
from huref.errors import CheckpointDigestError

if TYPE_CHECKING:
    from huref.lineage.table import LineageTable

FILE = "configs/lineage.json"
TAIL = 0.025  # probability outside a 95 % interval, on either side


@dataclass(frozen=True)
class Calibration:
    """Number of independent pairs in the measurement, and of those that were called related."""

    independent_pairs: int
    called_related: int
    recipe: str
    command: str

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the false-positive rate."""
        return exact_interval(self.called_related, self.independent_pairs)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"false positives: {self.called_related} of {self.independent_pairs} independent "
            f"pairs (exact 95 % interval {100 * low:.2g} to {100 * high:.2g} %; {self.command}), "
            f"by the recipe {self.recipe}, on models that nobody had prepared to hide or to frame "
            "another"
        )


def is_calibrated(table: "LineageTable") -> bool:
    """Whether a table holds verdicts of the kind whose errors were measured.

    That is "unrelated", "descends" and "shared initialisation" from a test of hidden units.
    """
    measured = ("unrelated", "descends", "shared initialisation")
    return any(p.evidence.test and p.evidence.verdict in measured for p in table.pairs)


def exact_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a rate (Clopper and Pearson 1934, Biometrika 26); (0, 1) without trials.

    Its ends are quantiles of beta distributions; it covers the true rate at least 95 times in 100.
    """
    failures = trials - successes
    low = float(betaincinv(successes, failures + 1, TAIL)) if successes else 0.0
    high = float(betaincinv(successes + 1, failures, 1 - TAIL)) if failures else 1.0
    return low, high


@lru_cache(maxsize=1)
def load_calibration() -> Calibration | None:
    """The shipped calibration, or None where there is none."""
    try:
        data = json.loads(locate(FILE).read_text("utf-8"))
    except CheckpointDigestError:
        return None
    return Calibration(
        int(data["independent_pairs"]),
        int(data["called_related"]),
        str(data["recipe"]),
        str(data["command"]),
    )
