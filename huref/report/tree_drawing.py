"""A lineage forest as a drawing: roots on the left, dogs at the leaves.

The length of a branch is the square root of its -ln ICS, so that a light fine-tune with an ICS of
0.99 is still visibly separate from its parent beside a model with an ICS of 0.25.
"""

import math

from huref.escape import printable
from huref.lineage.build_forest import ics_or_cosine
from huref.lineage.table import LineageTable
from huref.lineage.tree import Forest, Tree
from huref.report.canvas import Area, Canvas, Disc, Dog, Line, Words, elbow
from huref.report.lettering import shorten, width_of

MARGIN = 28.0
REACH = 440.0  # from the root to the farthest leaf
LEAST_REACH = 0.5  # in the root of -ln ICS: shorter trees are not stretched to the full width
WIDEST_NAME = 280.0
SAMPLES = (0.99, 0.9, 0.5, 0.1)  # correlations on the scale
LEADER = 13.0  # from the end of a branch to its dog; not part of the branch's length
LEGEND = {
    "arrow": "direction found, from the older to the younger model",
    "dashed": "same initialisation, trained independently",
    "ring": "root at the midpoint: which model came first is unknown",
}


def draw_forest(forest: Forest, *, heading: bool = True) -> Canvas:
    """All trees on one scale, one below the other, then the models without relatives."""
    table = forest.table
    families = [tree for tree in forest.trees if len(tree.models) > 1]
    alone = [tree.models[0] for tree in forest.trees if len(tree.models) == 1]
    row = _row(len(table.records))
    names = [shorten(label, WIDEST_NAME, _size(row)) for label in table.labels]
    places = [_places(tree) for tree in families]
    farthest = max((place for tree in places for place in tree), default=0.0)
    unit = REACH / max(farthest, LEAST_REACH)
    canvas = Canvas(720.0, 0.0, f"Lineage of {len(names)} models", _describe(forest))
    if heading:
        canvas.add(Words(MARGIN, 30, canvas.title, 20))
    top = 62.0 if heading else 10.0
    for tree, along in zip(families, places, strict=True):
        x = [MARGIN + unit * place for place in along]
        _draw_tree(canvas, tree, table, names, row, x, _levels(tree, row, top))
        top += row * len(tree.models) + row / 3
    if families:
        _draw_scale(canvas, top + 8, unit)
        top = _draw_legend(canvas, top + 36, families) + 26
    if alone:
        if families:
            words = "Without relatives among these models"
            canvas.add(Words(MARGIN, top, words, 14, "muted"))
            top += 18 + row / 4
        top = _draw_alone(canvas, alone, table, names, row, top)
    canvas.height = top + 14
    return canvas


def _row(models: int) -> float:
    return 60.0 if models <= 16 else 46.0 if models <= 30 else 34.0


def _size(row: float) -> float:
    return 15.0 if row > 50 else 13.0


def _places(tree: Tree) -> list[float]:
    found: list[float] = []
    for node in tree.nodes:
        found.append(math.sqrt(node.length) + (0.0 if node.above is None else found[node.above]))
    return found


def _draw_tree(
    canvas: Canvas,
    tree: Tree,
    table: LineageTable,
    names: list[str],
    row: float,
    x: list[float],
    y: list[float],
) -> None:
    for number, node in enumerate(tree.nodes):
        if node.above is not None:
            way = elbow((x[node.above], y[node.above]), (x[number], y[number]), row / 5)
            kept = f"{math.exp(-node.length):.3f} of the correlation kept"
            canvas.add(Line(way, "branch", 2.0, node.shared_initialisation, kept))
            if node.descent is not None and node.model is None and x[number] - way[0][0] > 34:
                middle = (x[node.above] + x[number]) / 2
                _draw_arrow(canvas, middle, y[number], node.descent == "down")
        if node.model is not None:
            stop = x[number] + LEADER - 2
            canvas.add(Line(((x[number], y[number]), (stop, y[number])), "branch", 2.0))
            if node.descent is not None and node.model != tree.founder:
                _draw_arrow(canvas, stop - 5, y[number], node.descent == "down")
            _draw_model(canvas, tree, table, names, node.model, x[number], y[number], row)
    if tree.founder is None:
        tip = "common ancestor at the midpoint: which model came first is unknown"
        canvas.add(Disc(x[0], y[0], 5, "paper"), Disc(x[0], y[0], 5, "branch", False, tip))


def _levels(tree: Tree, row: float, top: float) -> list[float]:
    """The y of each node: leaves in rows, the others in the middle of their children."""
    levels = [0.0] * len(tree.nodes)
    sums: dict[int, list[float]] = {}
    leaves = len(tree.models)
    for number, node in reversed(list(enumerate(tree.nodes))):
        if node.model is not None:
            leaves -= 1
            levels[number] = top + row * (leaves + 0.5)
        else:
            levels[number] = (min(sums[number]) + max(sums[number])) / 2
        if node.above is not None:
            sums.setdefault(node.above, []).append(levels[number])
    return levels


def _draw_arrow(canvas: Canvas, x: float, y: float, rightwards: bool) -> None:
    tip, back = (x + 5, x - 5) if rightwards else (x - 5, x + 5)
    canvas.add(Area(((tip, y), (back, y - 5.5), (back, y + 5.5)), "branch"))


def _draw_model(
    canvas: Canvas,
    tree: Tree,
    table: LineageTable,
    names: list[str],
    model: int,
    x: float,
    y: float,
    row: float,
) -> None:
    side, size = 0.86 * row, _size(row)
    left = x + LEADER + side + 8
    full = printable(table.models[model])
    canvas.add(Dog(x + LEADER, y - side / 2, side, model, full))
    note = _mixed(table, model, names)
    if not note and tree.founder is not None:
        alone = tree.founder == model
        note = "root of this family" if alone else _kept(table, tree.founder, model, names)
    if row > 50 and note:
        canvas.add(Words(left, y - 9, names[model], size, tip=full))
        canvas.add(Words(left, y + 10, note, 12, "muted"))
    else:
        canvas.add(Words(left, y, names[model], size, tip=full))
    longest = max(width_of(names[model], size), width_of(note, 12))
    canvas.width = max(canvas.width, left + longest + MARGIN)


def _mixed(table: LineageTable, model: int, names: list[str]) -> str:
    """The parents of a merge, which a tree cannot show; or ""."""
    called = dict(zip(table.models, names, strict=True))
    for mixing in table.mixings:
        if mixing.child == table.models[model]:
            parts = zip(mixing.shares or (None,) * len(mixing.parents), mixing.parents, strict=True)
            named = (
                f"{'' if s is None else f'{100 * s:.0f} % '}{shorten(called.get(p, p), 130, 12)}"
                for s, p in parts
            )
            return shorten(f"a merge: {', '.join(named)}", 1.5 * WIDEST_NAME, 12)
    return ""


def _kept(table: LineageTable, founder: int, model: int, names: list[str]) -> str:
    first, last = sorted((founder, model))
    count = len(table.records)
    pair = table.pairs[first * count - first * (first + 1) // 2 + last - first - 1]
    kind = "ICS" if pair.similarity.ics is not None else "cos z"
    return f"{kind} {ics_or_cosine(pair):.3f} with {shorten(names[founder], 150, 12)}"


def _draw_scale(canvas: Canvas, y: float, unit: float) -> None:
    x = MARGIN
    canvas.add(Words(x, y, "correlation kept:", 12, "muted"))
    x += width_of("correlation kept:", 12) + 14
    for kept in SAMPLES:
        length = unit * math.sqrt(-math.log(kept))
        if length > REACH / 2:
            break
        ends = (Line(((at, y - 4), (at, y + 4)), "muted", 1.5) for at in (x, x + length))
        canvas.add(Line(((x, y), (x + length, y)), "muted", 1.5), *ends)
        canvas.add(Words(x + length + 7, y, f"{kept:g}", 12, "muted"))
        x += length + 7 + width_of(f"{kept:g}", 12) + 20


def _draw_alone(
    canvas: Canvas,
    alone: list[int],
    table: LineageTable,
    names: list[str],
    row: float,
    top: float,
) -> float:
    side, size = 0.86 * row, _size(row)
    column = side + 16 + max(width_of(names[model], size) for model in alone) + 24
    columns = max(1, int((canvas.width - 2 * MARGIN + 24) // column))
    for place, model in enumerate(alone):
        x, y = MARGIN + place % columns * column, top + (place // columns + 0.5) * row
        full = printable(table.models[model])
        canvas.add(Dog(x, y - side / 2, side, model, full))
        canvas.add(Words(x + side + 8, y, names[model], size, tip=full))
    return top + row * -(-len(alone) // columns)


def _draw_legend(canvas: Canvas, top: float, families: list[Tree]) -> float:
    nodes = [node for tree in families for node in tree.nodes]
    used = {
        "arrow": any(node.descent for node in nodes),
        "dashed": any(node.shared_initialisation for node in nodes),
        "ring": any(tree.founder is None for tree in families),
    }
    x = MARGIN
    for kind in (kind for kind, is_used in used.items() if is_used):
        needed = 38 + width_of(LEGEND[kind], 12)
        if x > MARGIN and x + needed > canvas.width - MARGIN:
            x, top = MARGIN, top + 22
        canvas.add(Line(((x, top), (x + 30, top)), "branch", 2.0, kind == "dashed"))
        if kind == "arrow":
            _draw_arrow(canvas, x + 25, top, True)
        elif kind == "ring":
            canvas.add(Disc(x + 5, top, 5, "paper"), Disc(x + 5, top, 5, "branch", False))
        canvas.add(Words(x + 38, top, LEGEND[kind], 12, "muted"))
        x += needed + 22
    return top + 8


def _describe(forest: Forest) -> str:
    labels = forest.table.labels
    groups = [", ".join(labels[m] for m in tree.models) for tree in forest.trees]
    return "One tree for each origin: " + "; ".join(groups)
