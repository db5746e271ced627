"""How a child is a sum of other models: a mean, an arc, their own blocks, or a base and changes.

Which of these it is follows from the shares that were fitted (`mixing_weights`). A linear merge
that has the base itself for a parent and task arithmetic with small weights are one sum; how it was
rounded (`mixing_rounding`), or else measured directions, tell them apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from huref.lineage.evidence import MergeMethod
from huref.lineage.mixing_rounding import base_by_rounding
from huref.lineage.mixing_weights import (
    SMALLEST_SHARE,
    Fit,
    HalfGram,
    fit_half,
    join_fits,
    largest_cosine,
    negative_member,
)
from huref.lineage.sampled_family import Half, SampledFamily

ROUND = 0.02  # distance of a share from 0 and 1 up to which a block is one parent's own
HEAVIEST = 1.02  # weight of a parent, beyond which another explanation is preferred
UNLIKELY = 0.45  # doubt that such a weight adds
CURVED = 2.0  # times by which a spherical merge must fit better than a linear one


@dataclass(frozen=True, eq=False)
class Explanation:
    """What explains one child: parents, base and the fit of each half-block.

    Where two models explain each other, the one with the smaller `doubt` is the child.
    """

    parents: tuple[int, ...]
    base: int | None
    method: MergeMethod
    fits: tuple[tuple[Half, Fit | None], ...]
    why: str
    doubt: float = 0.0


def explain_by_sum(
    family: SampledFamily, child: int, grams: Sequence[HalfGram], members: tuple[int, ...]
) -> Explanation:
    """Which sum of some models a child is.

    Args:
        family: all models.
        child: index of the child.
        grams: of its half-blocks.
        members: models of which it is a combination (`find_members`).
    """
    base = negative_member(grams, members)
    fits = [(gram.half, fit_half(gram, members)) for gram in grams]
    is_passthrough = base is None and _is_passthrough(fits, len(members))
    is_rounded = False
    if base is None and not is_passthrough and len(members) > 2:
        halves = [gram.half for gram in grams]
        base = base_by_rounding(halves, members, family.dtype_of(child))
        is_rounded = base is not None
        if base is None:
            base = family.root_of(members)
    if base is not None:
        at = members.index(base)
        weights = join_fits([fit for _, fit in fits if fit is not None]).shares
        left = weights[at]
        parents = tuple(m for m in members if m != base)
        why = (
            "the sampled weights are the base's and a sum of the parents' changes; the weights "
            f"given to the parents sum to {1 - left:.2f}"
        )
        if is_rounded:
            why += ", and the sum was rounded as one of changes is"
        elif left > SMALLEST_SHARE:
            near = family.records[base].model
            why += f" (a linear merge with {near} at {left:.2f} is the same model)"
        without = tuple((half, fit and _without(fit, at)) for half, fit in fits)
        doubt = largest_cosine(grams, base, parents) / 2
        # Solved for a parent of weight w, the equation makes the merge a parent of weight 1 / w.
        if np.delete(weights, at).max() > HEAVIEST:
            doubt += UNLIKELY
        if family.contradicts(base, parents):
            doubt = 1.0
        return Explanation(parents, base, "task arithmetic", without, why, doubt)
    method: MergeMethod = "linear"
    why = "the sampled weights are a weighted mean of the parents'"
    if len(members) > 2:
        why += (
            " (if one of them is the others' base, task arithmetic with the others' shares for "
            "weights gives the same model)"
        )
    if is_passthrough:
        method, why = "passthrough", "each half-block is one parent's own"
    elif len(members) == 2 and _is_curved(fits, members):
        method, why = "slerp", "the sampled weights lie on the arc between the parents'"
    return Explanation(members, None, method, tuple(fits), why)


def _without(fit: Fit, at: int) -> Fit:
    """The fit without one member, normalised."""
    shares, errors = np.delete(fit.shares, at), np.delete(fit.errors, at)
    total = float(shares.sum())
    total = total if abs(total) > 0.05 else 0.05
    return replace(fit, shares=shares / total, errors=errors / abs(total))


def _is_passthrough(fits: Sequence[tuple[Half, Fit | None]], parents: int) -> bool:
    """Whether every half-block is one parent's own, and more than one has some."""
    owners = set()
    for _, fit in fits:
        if fit is None:
            continue
        if (
            fit.shares.max() < 1 - ROUND
            or np.abs(np.delete(fit.shares, fit.shares.argmax())).max() > ROUND
        ):
            return False
        owners.add(int(fit.shares.argmax()))
    return len(owners) == parents


def _is_curved(fits: Sequence[tuple[Half, Fit | None]], parents: Sequence[int]) -> bool:
    """Whether arcs from one parent to the other fit better than lines; of close models they agree.

    Merge tools turn each matrix by itself (Shoemake, 1985).
    """
    line = arc = 0.0
    for half, fit in fits:
        if fit is None or any(p not in half.others for p in parents):
            continue
        share = float(fit.shares[0])
        for tensor in range(int(half.tensors.max()) + 1):
            here = half.tensors == tensor
            a, b = (half.others[p][here] for p in parents)
            c = half.child[here]
            cosine = float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))
            angle = float(np.arccos(np.clip(cosine, -1, 1)))
            line += float(np.square(c - share * a - (1 - share) * b).sum())
            if angle > 1e-3:
                a, b = np.sin(share * angle) * a, np.sin((1 - share) * angle) * b
                arc += float(np.square(c - (a + b) / np.sin(angle)).sum())
    return 0 < CURVED**2 * arc < line
