"""Which attention and which feed-forward network make a block of the function.

A block can be stored as two: its attention beside a network that writes next to nothing, then its
network beside attention that writes next to nothing. What runs one after the other is the same. So
blocks are put together from the halves that write: attention, and the first network after it. A
half that writes next to nothing fills a place that no other takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Place = Literal["attention", "ffn"]


@dataclass(frozen=True)
class Half:
    """One half of a stored block.

    Attributes:
        index: of the stored block.
        place: which half.
        share: of what it writes in the stream; see `HalfUse`.
        works: whether that is enough to count.
    """

    index: int
    place: Place
    share: float
    works: bool


@dataclass(frozen=True)
class Joined:
    """A block of the function: one half of each kind; None where there is none.

    Attributes:
        attention, ffn: its halves.
        open: whether the network may still be a later one, because this one writes too little.
    """

    attention: Half | None
    ffn: Half | None
    open: bool = False

    @property
    def index(self) -> int:
        """The index of the stored block that holds its network, or else its attention."""
        half = self.ffn or self.attention
        assert half is not None
        return half.index

    @property
    def halves(self) -> list[Half]:
        """Both, in order."""
        return [half for half in (self.attention, self.ffn) if half is not None]


def join_halves(halves: Sequence[Half]) -> list[Joined]:
    """The blocks of the function, in order; halves that fill no place are in none.

    Args:
        halves: of the stored blocks, in the order in which they run.
    """
    joined: list[Joined] = []
    quiet: Half | None = None  # the loudest attention since the last network that was put in
    for half in halves:
        last = joined[-1] if joined and joined[-1].open else None
        if half.place == "attention":
            if half.works:
                joined.append(Joined(half, None, open=True))
                quiet = None
            elif quiet is None or half.share > quiet.share:
                quiet = half
        elif half.works:
            if last is not None:
                joined[-1] = Joined(last.attention, half)
            else:
                joined.append(Joined(quiet, half))
            quiet = None
        elif last is not None and (last.ffn is None or half.share > last.ffn.share):
            joined[-1] = Joined(last.attention, half, open=True)
    return joined
