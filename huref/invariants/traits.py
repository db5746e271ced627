"""Plain facts of a model that say which of two relatives came first."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

NEIGHBOURS = 32  # every format of four bits or fewer scales at least so many weights together


@dataclass(frozen=True)
class Traits:
    """Facts of a model.

    Attributes:
        vocabulary: number of tokens that the tokenizer has.
        blocks: number of layers with attention, those that do nothing included.
        width: of the residual stream.
        levels: mean number of distinct values among 32 neighbouring weights, or None.
    """

    vocabulary: int
    blocks: int
    width: int
    levels: float | None

    def to_json(self) -> dict[str, Any]:
        """All facts, as JSON has them."""
        return asdict(self)


def parse_traits(data: Any) -> Traits:
    """Traits from what `to_json` gave. Raises ValueError, TypeError or KeyError when it is not."""
    levels = data["levels"]
    return Traits(
        vocabulary=int(data["vocabulary"]),
        blocks=int(data["blocks"]),
        width=int(data["width"]),
        levels=None if levels is None else float(levels),
    )


def count_levels(weights: Tensor) -> float | None:
    """Mean number of distinct values among 32 weights that one output reads from neighbours.

    About 31 for trained weights in 16 bits, at most 16 where they lie on a grid of four bits.

    Args:
        weights: (in, out), as stored: no gain folded into its inputs.

    Returns:
        The mean, or None for matrices of fewer than 32 inputs.
    """
    groups = min(len(weights) // NEIGHBOURS, 8)
    if not groups:
        return None
    sample = weights[: groups * NEIGHBOURS, :256].reshape(groups, NEIGHBOURS, -1)
    ordered = sample.sort(dim=1).values
    distinct = (ordered.diff(dim=1) != 0).sum(dim=1) + 1
    return float(distinct.double().mean())
