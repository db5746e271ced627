"""Shares of what two models compute that have a counterpart in each other, as data.

`huref.lineage.counterparts` measures them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shares:
    """Shares of two models' energy that have a counterpart in each other, in [0, 1].

    Attributes:
        of_a_in_b: share of what A computes, in the blocks that were read, that B computes too.
        of_b_in_a: likewise of B.
    """

    of_a_in_b: float
    of_b_in_a: float

    @property
    def larger(self) -> float:
        """The share of the model that has more of itself in the other."""
        return max(self.of_a_in_b, self.of_b_in_a)


def as_share(share: float) -> str:
    """A share for people."""
    return "less than 1 %" if share < 0.01 else f"{100 * share:.0f} %"
