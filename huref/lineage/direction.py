"""Which of two relatives stands nearer their root, where a change that has a direction shows.

Quantising, pruning, stacking, upcycling and extending a vocabulary happen to a model that was
there before; none is undone by training. And training adds: what a parent learned its child holds,
what the child learned in addition the parent does not (see `lineage.retention`). Where two such
signs contradict each other, or there is none, nothing is said. A sign tells which side changed, not
that nothing lies between: a sibling of the parent shows the same, and a merge, being a mean, lies
nearer to the root than what it was merged from.
"""

from collections.abc import Iterator
from typing import Literal

from huref.invariants.record import Record
from huref.invariants.unit_features import DOWN, UP, UnitFeatures
from huref.lineage.evidence import Direction, LayerMap
from huref.lineage.retention import Retention, in_words

Side = Literal["a", "b"]
GRID = 16.5  # distinct values among 32 neighbours that four bits allow
OFF_GRID = 24.0  # and that weights of eight bits and more exceed
LEARNED = 0.008  # of what one learned, that the other holds less of it than the other way round
SAMPLE = 512  # units of a network that are looked up among all
COPY = 0.995  # cosine of a unit and its copy; their features are float16
SAME_IDS = 0.99  # of the shared anchors, for one vocabulary to extend the other


def find_direction(
    a: Record, b: Record, layer_map: LayerMap | None, retention: Retention | None = None
) -> Direction | None:
    """Which of two models that share training stands nearer their root.

    Args:
        a: record of one.
        b: record of the other.
        layer_map: which block of b comes from which of a, where all blocks were read.
        retention: of what each learned in the other.
    """
    signs = [
        *_signs(a, b, "a", "b"),
        *_signs(b, a, "b", "a"),
        *_layer_signs(a, b, layer_map),
        *([] if retention is None or _is_coarse(a) or _is_coarse(b) else _learned(retention)),
    ]
    children = {child for child, _ in signs}
    if len(children) != 1:
        return None
    return Direction("b" if "a" in children else "a", "; ".join(why for _, why in signs))


def _signs(
    one: Record, other: Record, one_side: Side, other_side: Side
) -> Iterator[tuple[Side, str]]:
    """Signs that `other` is the child."""
    if one.traits is None or other.traits is None:
        return
    mine, theirs = one.traits, other.traits
    if mine.levels and theirs.levels and theirs.levels <= GRID and mine.levels >= OFF_GRID:
        yield other_side, f"the weights of {other_side} lie on a grid of four bits"
    if theirs.width < mine.width:
        yield other_side, f"{other_side} has {theirs.width} of {mine.width} dimensions left"
    if theirs.vocabulary > mine.vocabulary and _same_ids(one, other):
        more = theirs.vocabulary - mine.vocabulary
        yield other_side, f"the vocabulary of {other_side} is that of {one_side} and {more} more"
    if one.units is not None and other.units is not None:
        sizes = [_network_sizes(record) for record in (one, other)]
        if len(sizes[0]) == len(sizes[1]) and all(
            len(x) == len(y) == 1 and y[0] < x[0] for x, y in zip(*sizes, strict=True)
        ):
            kept, of = sizes[1][0][0], sizes[0][0][0]
            added = _added_units(one, of - kept)
            if added:
                yield one_side, f"about {added} of {of} units of {one_side} are empty or copies"
            else:
                yield other_side, f"{other_side} has {kept} of {of} units left"
        if all(len(x) == 1 for x in sizes[0]) and all(len(y) > 1 for y in sizes[1]):
            yield other_side, f"the experts of {other_side} come from one network of {one_side}"


def _network_sizes(record: Record) -> list[list[int]]:
    """Sizes of the networks of each of the recipe's blocks."""
    assert record.units is not None
    return [
        [record.units.size(i) for i in record.units.in_layer(layer)]
        for layer in record.layers or ()
    ]


def _added_units(record: Record, surplus: int) -> int:
    """About how many units of each network write nothing or repeat another one, if many.

    Exports pad networks with zeros, and a network is widened by duplicating units: neither is a
    sign that the smaller one was pruned. Less than half the surplus is taken for nothing.
    """
    assert record.units is not None
    network = record.units.in_layer((record.layers or record.units.layers)[0])[0]
    rows = record.units.of_network(network).float()
    lengths = rows.norm(dim=2, keepdim=True)
    empty = (lengths[:, UP] * lengths[:, DOWN] == 0).flatten()
    rows = (rows / lengths.clamp(min=1e-6)).flatten(1)[~empty]
    sample = rows[:: max(1, len(rows) // SAMPLE)]
    alike = (sample @ rows.T) / rows.square().sum(1).clamp(min=1) > COPY
    repeated = (alike.sum(1) > 1).float().mean().item() if len(rows) else 0.0
    added = int(empty.sum()) + round(repeated * len(rows) / 2)
    return added if 2 * added >= surplus else 0


def _same_ids(one: Record, other: Record) -> bool:
    """Whether tokens that both hold have the same ids in both."""
    if one.anchors is None or other.anchors is None:
        return False
    shared = one.anchors.shared(other.anchors)
    same = sum(one.anchors.ids[i] == other.anchors.ids[i] for i in shared)
    return bool(shared) and same >= SAME_IDS * len(shared)


def _is_coarse(record: Record) -> bool:
    """Whether the weights lie on a grid; its noise looks like something that was learned."""
    levels = None if record.traits is None else record.traits.levels
    return levels is not None and levels < OFF_GRID


def _learned(retention: Retention) -> Iterator[tuple[Side, str]]:
    """A sign from what one has learned that the other does not hold.

    Noise that was added to a model's weights raises the retention of what it learned. Where the
    larger exceeds 1 by more than the smaller falls short of it, that may be all that parts them.
    """
    if retention.larger - 1 > 1 - retention.smaller:
        return
    of_a, of_b = in_words(retention.of_a), in_words(retention.of_b)
    if retention.of_a - retention.of_b >= LEARNED:
        yield "b", f"b holds {of_a} of what a learned, a {of_b} of what b learned"
    elif retention.of_b - retention.of_a >= LEARNED:
        yield "a", f"a holds {of_b} of what b learned, b {of_a} of what a learned"


def _layer_signs(a: Record, b: Record, layer_map: LayerMap | None) -> Iterator[tuple[Side, str]]:
    """Signs from which block comes from which."""
    if layer_map is None or a.units is None or b.units is None:
        return
    used = [source for source in layer_map.source if source is not None]
    missing = len(layer_map.a_layers) - len(set(used))
    surplus = len(layer_map.b_layers) - len(set(used))
    if len(used) > len(set(used)) and not missing:
        yield "b", f"blocks of a that b holds twice: {len(used) - len(set(used))}"
    elif not used or missing == surplus:
        return
    elif missing and not surplus:
        if idle := _idle(a.units):
            yield "a", f"blocks of a that do nothing: {idle}"
        elif twice := _copies(layer_map):
            yield "a", f"blocks of b that a holds twice: {twice}"
        else:
            yield "b", f"blocks of a that are missing in b: {missing}"
    elif surplus and not missing:
        if idle := _idle(b.units):
            yield "b", f"blocks of b that do nothing: {idle}"
        else:
            yield "a", f"blocks of b that are missing in a: {surplus}"


def _idle(units: UnitFeatures) -> int:
    """Number of blocks whose networks write nothing."""
    return sum(units.is_idle(layer) for layer in units.layers)


def _copies(layer_map: LayerMap) -> int:
    """Blocks of A that resemble a block of B which another one resembles as much."""
    best = layer_map.share.argmax(axis=1)
    clear = layer_map.share.max(axis=1) > layer_map.share.max() / 2
    claimed = [int(target) for target, is_clear in zip(best, clear, strict=True) if is_clear]
    return len(claimed) - len(set(claimed))
