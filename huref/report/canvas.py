"""A drawing as data: marks of a few kinds, which `svg` and `raster` render."""

import math
from dataclasses import dataclass, field

from huref.report.palette import Paint

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle, filled or outlined. `tip` is the tooltip."""

    x: float
    y: float
    width: float
    height: float
    paint: Paint
    opacity: float = 1.0
    outlined: bool = False
    tip: str = ""


@dataclass(frozen=True)
class Line:
    """A polyline."""

    points: tuple[Point, ...]
    paint: Paint
    width: float = 1.0
    dashed: bool = False
    tip: str = ""


@dataclass(frozen=True)
class Area:
    """A filled polygon."""

    points: tuple[Point, ...]
    paint: Paint


@dataclass(frozen=True)
class Disc:
    """A circle, filled or a ring."""

    x: float
    y: float
    radius: float
    paint: Paint
    filled: bool = True
    tip: str = ""


@dataclass(frozen=True)
class Words:
    """One line of text; y is its middle. Upright text runs from bottom to top, centred on x."""

    x: float
    y: float
    text: str
    size: float = 13.0
    paint: Paint = "ink"
    align: str = "start"  # start, middle or end
    upright: bool = False
    tip: str = ""


@dataclass(frozen=True)
class Dog:
    """The portrait of a model, by its index in the table."""

    x: float
    y: float
    side: float
    model: int
    tip: str = ""


Mark = Box | Line | Area | Disc | Words | Dog


@dataclass
class Canvas:
    """Marks in drawing order, on an area of width by height.

    Attributes:
        title: what the drawing is, for screen readers.
        description: what it shows, likewise.
    """

    width: float
    height: float
    title: str
    description: str = ""
    marks: list[Mark] = field(default_factory=list)

    def add(self, *marks: Mark) -> None:
        """Draw marks on top of the others."""
        self.marks += marks


def elbow(start: Point, stop: Point, radius: float) -> tuple[Point, ...]:
    """A path that leaves start vertically and reaches stop horizontally, with a rounded corner."""
    (x, y), (right, level) = start, stop
    r = min(radius, abs(level - y), max(right - x, 0.0))
    if r <= 0:
        return (start, (x, level), stop)
    sign = 1.0 if level > y else -1.0
    corner = [
        (x + r - r * math.cos(t), level - sign * (r - r * math.sin(t)))
        for t in (math.pi / 2 * step / 6 for step in range(7))
    ]
    return (start, *corner, stop)
