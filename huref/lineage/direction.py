"""Which of two relatives is nearer their root, by what each has learned.

Training adds: a child retains what its parent learned, and the parent lacks what the child learned
in addition (see `lineage.retention`). A direction is given where the two retentions differ by more
than ERRORS standard errors and by LEARNED. It shows which model was trained on, not that the other
is its parent: a sibling of the parent shows the same, and a merge, being a mean, is nearer to the
root than the models it was merged from.

Nothing else counts. Widths, vocabularies and numbers of units, experts and blocks are what padding
forges: a copy with quiet units, empty dimensions or fewer tokens looked older than its source. Nor
does a coarse grid show which was quantised: a base may be a dequantised copy, whose fine-tunes lie
on no grid.
"""

from huref.invariants.record import Record
from huref.lineage.evidence import Direction
from huref.lineage.retention import Retention, as_percent

OFF_GRID = 24.0  # distinct values among 32 neighbouring weights, at least, of eight bits and more
LEARNED = 0.004  # difference between the two retentions, at least, that is a sign
ERRORS = 3  # standard errors of that difference, at least; level 0.0013 on either side
# What is said where the weights do not show a direction.
UNSETTLED = (
    "which of the two is older is not in the weights; a signed attestation of one that is older "
    "than the other's publication settles it"
)


def find_direction(a: Record, b: Record, retention: Retention | None) -> Direction | None:
    """Which of two models from one training run is nearer their root, or None.

    Args:
        a: record of one model.
        b: record of the other.
        retention: how much of what each learned the other retains.
    """
    if retention is None or _is_coarse(a) or _is_coarse(b):
        return None
    return _learned(retention)


def _is_coarse(record: Record) -> bool:
    """Whether the weights are quantised; rounding noise looks like something learned."""
    levels = None if record.traits is None else record.traits.levels
    return levels is not None and levels < OFF_GRID


def _learned(retention: Retention) -> Direction | None:
    """The direction in which one model retains more than the other does.

    Noise in a model's weights raises the retention of that model. Where the larger retention
    exceeds 1 by more than the smaller is below 1, noise may be the whole difference: no direction.
    """
    difference = retention.of_a - retention.of_b
    if abs(difference) < max(LEARNED, ERRORS * retention.error_of_difference):
        return None
    if retention.larger - 1 > 1 - retention.smaller:
        return None
    of_a, of_b = as_percent(retention.of_a), as_percent(retention.of_b)
    error = f"the difference has a standard error of {100 * retention.error_of_difference:.1f} %"
    if difference > 0:
        why = f"b retains {of_a} of what a learned, a retains {of_b} of what b learned; {error}"
        return Direction("a", why)
    why = f"a retains {of_b} of what b learned, b retains {of_a} of what a learned; {error}"
    return Direction("b", why)
