"""Traits: properties of a model by which the direction of descent is judged."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

NEIGHBOURS = 32  # formats of four bits or fewer have one scale for at least 32 weights


@dataclass(frozen=True)
class Traits:
    """Properties of a model.

    Attributes:
        vocabulary: number of tokens of the tokenizer.
        blocks: number of layers with attention, including no-ops.
        width: width of the residual stream.
        levels: mean number of distinct values among 32 neighbouring weights, or None if unknown;
            small for weights that are or once were quantised.
    """

    vocabulary: int
    blocks: int
    width: int
    levels: float | None

    def to_json(self) -> dict[str, Any]:
        """All fields, as a JSON object."""
        return asdict(self)


def parse_traits(data: Any) -> Traits:
    """Traits from the result of `to_json`.

    Raises:
        ValueError, TypeError, KeyError: the data is something else.
    """
    levels = data["levels"]
    return Traits(
        vocabulary=int(data["vocabulary"]),
        blocks=int(data["blocks"]),
        width=int(data["width"]),
        levels=None if levels is None else float(levels),
    )


def count_levels(weights: Tensor) -> float | None:
    """Mean number of distinct values among 32 weights of one output and neighbouring inputs.

    About 31 for trained weights in 16 bits, at most 16 for weights rounded to four bits.

    Args:
        weights: (in, out), without a gain folded into the inputs.

    Returns:
        The mean, or None for fewer than 32 inputs.
    """
    groups = min(len(weights) // NEIGHBOURS, 8)
    if not groups:
        return None
    sample = weights[: groups * NEIGHBOURS, :256].reshape(groups, NEIGHBOURS, -1)
    ordered = sample.sort(dim=1).values
    distinct = (ordered.diff(dim=1) != 0).sum(dim=1) + 1
    return float(distinct.double().mean())
