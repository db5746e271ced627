"""How often the verdicts were wrong on models that are known to be independent.

`scripts/evaluate_lineage.py` measures it and writes `configs/lineage.json`:
{"independent_pairs": pairs, "called_related": of them, "command": what reproduces it}.
"""

import json
import math
from dataclasses import dataclass
from functools import lru_cache

from huref.assets import locate
from huref.errors import CheckpointDigestError

FILE = "configs/lineage.json"
Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class Calibration:
    """Independent pairs that were tried, and how many were called related."""

    independent_pairs: int
    called_related: int
    command: str

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the false-positive rate (Wilson)."""
        return wilson_interval(self.called_related, self.independent_pairs)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"false positives: {self.called_related} of {self.independent_pairs} independent "
            f"pairs (95 % Wilson interval {100 * low:.2g} to {100 * high:.2g} %; {self.command})"
        )


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, square = successes / trials, Z * Z / trials
    centre = share + square / 2
    spread = math.sqrt(square * (share * (1 - share) + square / 4))
    low, high = ((centre + sign * spread) / (1 + square) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


@lru_cache(maxsize=1)
def load_calibration() -> Calibration | None:
    """The shipped calibration, or None where there is none."""
    try:
        data = json.loads(locate(FILE).read_text("utf-8"))
    except CheckpointDigestError:
        return None
    return Calibration(
        int(data["independent_pairs"]), int(data["called_related"]), str(data["command"])
    )
