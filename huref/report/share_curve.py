"""The shares of a merged model's parents over its depth, as a drawing."""

from collections.abc import Sequence

from huref.lineage.evidence import BlockShares, HalfShares, Mixing
from huref.report.canvas import Area, Box, Canvas, Disc, Line, Words
from huref.report.lettering import shorten

WIDTH, HEIGHT = 560.0, 130.0  # of the panel of one parent
LEFT, RIGHT, TOP, BOTTOM = 44.0, 16.0, 30.0, 34.0
FEWEST = 2  # blocks, from which a curve says more than a number
HALVES = (("attention", "heat", False), ("ffn", "shared", True))
CALLED = {"attention": "attention", "ffn": "feed-forward"}


def has_curve(mixing: Mixing) -> bool:
    """Whether shares are known of enough blocks for a drawing."""
    return sum(block.both is not None for block in mixing.blocks) >= FEWEST


def draw_shares(mixing: Mixing, names: Sequence[str]) -> Canvas:
    """One panel a parent: its share from 0 to 1 against the index of the block.

    A line for attention and a dashed one for the feed-forward network, each with the range of its
    95 % intervals. Of two parents the second's panel would be the first's upside down and is left
    out.

    Args:
        mixing: with shares by block.
        names: what to call the parents.
    """
    shown = range(1 if len(names) == 2 else len(names))
    words = describe_shares(mixing, names)
    height = len(shown) * (HEIGHT + BOTTOM) + TOP
    canvas = Canvas(LEFT + WIDTH + RIGHT, height, f"Shares of {', '.join(names)} by block", words)
    _draw_legend(canvas)
    for place, parent in enumerate(shown):
        top = TOP + place * (HEIGHT + BOTTOM)
        _draw_panel(canvas, mixing.blocks, parent, names[parent], top)
    return canvas


def _draw_legend(canvas: Canvas) -> None:
    x = LEFT
    for half, paint, dashed in HALVES:
        canvas.add(Line(((x, 12.0), (x + 26, 12.0)), paint, 2.2, dashed))
        canvas.add(Words(x + 33, 12.0, CALLED[half], 12, "muted"))
        x += 140.0
    canvas.add(Words(x, 12.0, "shaded: 95 % intervals", 12, "muted"))


def _draw_panel(
    canvas: Canvas, blocks: Sequence[BlockShares], parent: int, name: str, top: float
) -> None:
    count = len(blocks)
    xs = [LEFT + WIDTH * (i + 0.5) / count for i in range(count)]

    def y(share: float) -> float:
        return top + HEIGHT * (1 - min(max(share, 0.0), 1.0))

    canvas.add(Box(LEFT, top, WIDTH, HEIGHT, "line", outlined=True))
    for level in (0.0, 0.5, 1.0):
        if level == 0.5:
            canvas.add(Line(((LEFT, y(level)), (LEFT + WIDTH, y(level))), "line", 1.0))
        canvas.add(Words(LEFT - 7, y(level), f"{level:g}", 11, "muted", "end"))
    step = max(1, round(count * 26 / WIDTH))
    for x, block in list(zip(xs, blocks, strict=True))[::step]:
        canvas.add(Words(x, top + HEIGHT + 11, str(block.block), 10.5, "muted", "middle"))
    label = shorten(f"share of {name}; blocks from left to right", WIDTH, 11)
    canvas.add(Words(LEFT, top + HEIGHT + 25, label, 11, "muted"))
    curves = [
        (
            half,
            [
                (x, block.block, found)
                for x, block in zip(xs, blocks, strict=True)
                if (found := _half(block, half)) is not None
            ],
        )
        for half, _, _ in HALVES
    ]
    for _, known in curves:
        upper = [(x, y(found.high[parent])) for x, _, found in known]
        lower = [(x, y(found.low[parent])) for x, _, found in known]
        if len(known) > 1:
            canvas.add(Area((*upper, *reversed(lower)), "line"))
    for (half, paint, dashed), (_, known) in zip(HALVES, curves, strict=True):
        points = tuple((x, y(found.shares[parent])) for x, _, found in known)
        if len(points) > 1:
            canvas.add(Line(points, paint, 2.2, dashed))
        for (x, height), (_, index, found) in zip(points, known, strict=True):
            tip = (
                f"block {index}, {CALLED[half]}: {found.shares[parent]:.2f} "
                f"({found.low[parent]:.2f} to {found.high[parent]:.2f})"
            )
            canvas.add(Disc(x, height, 3.2, paint, not dashed, tip))


def _half(block: BlockShares, half: str) -> HalfShares | None:
    return block.attention if half == "attention" else block.ffn


def describe_shares(mixing: Mixing, names: Sequence[str]) -> str:
    """The shares of the first parent by block, in words."""
    parts = [
        f"block {block.block}: {block.both.shares[0]:.2f}"
        for block in mixing.blocks
        if block.both is not None
    ]
    return f"Share of {names[0]} by block: {', '.join(parts)}."
