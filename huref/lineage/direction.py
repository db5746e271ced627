"""Which of two relatives is nearer their root, by changes that have a direction.

Quantising, pruning, stacking, upcycling and extending a vocabulary change an existing model, and
training undoes none of them. Training itself adds: a child retains what its parent learned, and the
parent lacks what the child learned in addition (see `lineage.retention`). Without a sign, or with
signs that contradict each other, there is no direction. A sign shows which model changed, not that
the other is its parent: a sibling of the parent shows the same, and a merge, being a mean, is
nearer to the root than the models it was merged from.
"""

from collections.abc import Iterator
from typing import Literal

from huref.invariants.record import Record
from huref.invariants.unit_features import DOWN, UP, UnitFeatures
from huref.lineage.evidence import Direction, LayerMap
from huref.lineage.retention import Retention, as_percent

Side = Literal["a", "b"]
GRID = 16.5  # distinct values among 32 neighbouring weights, at most, of four bits
OFF_GRID = 24.0  # at least, of eight bits and more
LEARNED = 0.008  # difference between the two retentions that is a sign
SAMPLE = 512  # units of a network that are compared with all of its units
COPY = 0.995  # cosine of a unit and its copy; their features are float16
SAME_IDS = 0.99  # share of the shared anchors with the same id, for an extended vocabulary


def find_direction(
    a: Record, b: Record, layer_map: LayerMap | None, retention: Retention | None = None
) -> Direction | None:
    """Which of two models from one training run is nearer their root, or None.

    Args:
        a: record of one model.
        b: record of the other.
        layer_map: which block of b comes from which of a, where all blocks were read.
        retention: how much of what each learned the other retains.
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
    """Signs from traits and networks: as a rule that `other` is the child."""
    if one.traits is None or other.traits is None:
        return
    before, after = one.traits, other.traits
    if before.levels and after.levels and after.levels <= GRID and before.levels >= OFF_GRID:
        yield other_side, f"the weights of {other_side} are quantised to four bits"
    if after.width < before.width:
        yield other_side, f"{other_side} keeps {after.width} of {before.width} hidden dimensions"
    if after.vocabulary > before.vocabulary and _same_ids(one, other):
        more = after.vocabulary - before.vocabulary
        yield (
            other_side,
            f"the vocabulary of {other_side} is that of {one_side} with {more} more tokens",
        )
    if one.units is not None and other.units is not None:
        sizes = [_network_sizes(record) for record in (one, other)]
        if len(sizes[0]) == len(sizes[1]) and all(
            len(x) == len(y) == 1 and y[0] < x[0] for x, y in zip(*sizes, strict=True)
        ):
            kept, of = sizes[1][0][0], sizes[0][0][0]
            added = _added_units(one, of - kept)
            if added:
                yield (
                    one_side,
                    f"about {added} of {of} hidden units of {one_side} are zero or copies",
                )
            else:
                yield other_side, f"{other_side} keeps {kept} of {of} hidden units"
        if all(len(x) == 1 for x in sizes[0]) and all(len(y) > 1 for y in sizes[1]):
            yield other_side, f"the experts of {other_side} come from one network of {one_side}"


def _network_sizes(record: Record) -> list[list[int]]:
    """Numbers of hidden units of the networks of each of the recipe's blocks."""
    assert record.units is not None
    return [
        [record.units.size(i) for i in record.units.in_layer(layer)]
        for layer in record.layers or ()
    ]


def _added_units(record: Record, surplus: int) -> int:
    """Estimated number of units of each network that are zero or copies of another unit.

    Exports pad networks with zeros, and a network is widened by duplicating units: neither shows
    that the smaller network was pruned. 0 where the estimate is below half the surplus.
    """
    assert record.units is not None
    network = record.units.in_layer((record.layers or record.units.layers)[0])[0]
    rows = record.units.of_network(network).float()
    lengths = rows.norm(dim=2, keepdim=True)
    is_zero = (lengths[:, UP] * lengths[:, DOWN] == 0).flatten()
    rows = (rows / lengths.clamp(min=1e-6)).flatten(1)[~is_zero]
    sample = rows[:: max(1, len(rows) // SAMPLE)]
    is_copy = (sample @ rows.T) / rows.square().sum(1).clamp(min=1) > COPY
    repeated = (is_copy.sum(1) > 1).float().mean().item() if len(rows) else 0.0
    added = int(is_zero.sum()) + round(repeated * len(rows) / 2)
    return added if 2 * added >= surplus else 0


def _same_ids(one: Record, other: Record) -> bool:
    """Whether shared anchors have the same token ids in both models."""
    if one.anchors is None or other.anchors is None:
        return False
    shared = one.anchors.shared(other.anchors)
    same = sum(one.anchors.ids[i] == other.anchors.ids[i] for i in shared)
    return bool(shared) and same >= SAME_IDS * len(shared)


def _is_coarse(record: Record) -> bool:
    """Whether the weights are quantised; rounding noise looks like something learned."""
    levels = None if record.traits is None else record.traits.levels
    return levels is not None and levels < OFF_GRID


def _learned(retention: Retention) -> Iterator[tuple[Side, str]]:
    """A sign from what one model learned and the other lacks.

    Noise in a model's weights raises the retention of that model. Where the larger retention
    exceeds 1 by more than the smaller is below 1, noise may be the whole difference: no sign.
    """
    if retention.larger - 1 > 1 - retention.smaller:
        return
    of_a, of_b = as_percent(retention.of_a), as_percent(retention.of_b)
    if retention.of_a - retention.of_b >= LEARNED:
        yield "b", f"b retains {of_a} of what a learned, a retains {of_b} of what b learned"
    elif retention.of_b - retention.of_a >= LEARNED:
        yield "a", f"a retains {of_b} of what b learned, b retains {of_a} of what a learned"


def _layer_signs(a: Record, b: Record, layer_map: LayerMap | None) -> Iterator[tuple[Side, str]]:
    """Signs from the layer map."""
    if layer_map is None or a.units is None or b.units is None:
        return
    used = [source for source in layer_map.source if source is not None]
    missing = len(layer_map.a_layers) - len(set(used))
    surplus = len(layer_map.b_layers) - len(set(used))
    if len(used) > len(set(used)) and not missing:
        yield "b", f"blocks of a that b repeats: {len(used) - len(set(used))}"
    elif not used or missing == surplus:
        return
    elif missing and not surplus:
        if idle := _idle(a.units):
            yield "a", f"blocks of a that write nothing: {idle}"
        elif twice := _copies(layer_map):
            yield "a", f"blocks of b that a repeats: {twice}"
        else:
            yield "b", f"blocks of a that are missing in b: {missing}"
    elif surplus and not missing:
        if idle := _idle(b.units):
            yield "b", f"blocks of b that write nothing: {idle}"
        else:
            yield "a", f"blocks of b that are missing in a: {surplus}"


def _idle(units: UnitFeatures) -> int:
    """Number of blocks whose feed-forward networks write nothing."""
    return sum(units.is_idle(layer) for layer in units.layers)


def _copies(layer_map: LayerMap) -> int:
    """Number of blocks of A that resemble the same block of B as another one does."""
    best = layer_map.share.argmax(axis=1)
    clear = layer_map.share.max(axis=1) > layer_map.share.max() / 2
    claimed = [int(target) for target, is_clear in zip(best, clear, strict=True) if is_clear]
    return len(claimed) - len(set(claimed))
