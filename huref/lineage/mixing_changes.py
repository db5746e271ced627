"""Shares of merges that select changes place by place: TIES, DARE, DELLA, breadcrumbs.

With y = c - b and t_p = w_p - b, b the common base, such a merge keeps at every place the changes
of some parents S and drops the others:

    y = sum over S of g_p t_p                                     (sum: DARE, DELLA linear, ...)
    y = sum over S of v_p s_p t_p  /  sum over S of v_p           (mean: TIES, DELLA)

g_p = v_p s_p with v_p the weight given to the merge tool and s_p the factor by which it makes up
for what it dropped. Where one parent alone was kept y / t_p has one value, which shows as a peak
of the histogram; it is g_p or s_p. Each place is then given the S that fits best. Training leaves
no such structure: the share of places that are explained is held against the same for changes that
are out of place by one number (docs/maths.md, Mixtures).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from huref.lineage.mixing_weights import Fit
from huref.lineage.sampled_family import GROUPS, Half

MOST = 4  # parents
PEAK = 0.03  # share of places in a peak, at least, above its surroundings
BIN = 0.05  # width of a bin, in natural logarithms
RATIOS = (0.02, 50.0)  # range of y / t in which peaks are looked for
CLEAR = 8.0  # changes smaller than so many roundings say nothing
SLACK = 0.05  # of a prediction: factors differ a little from matrix to matrix
FINE = 0.015  # likewise once they were fitted matrix by matrix
EXPLAINED = 0.75  # share of places, at least
BEYOND = 0.35  # by which that is more than among changes that are out of place
WORTH = 0.04  # share of places that another parent must explain in addition
OVERLAP = 50  # places at which several changes were kept, at least, to tell weights from a mean
ROUNDS = 4  # of assigning places and solving for weights
MOST_HALVES = 8  # half-blocks on which parents are chosen
TRIMMED = 0.85  # probability that a kept change is larger than a dropped one; 0.5 at random
OUTLIERS = 0.3  # likewise, below which the largest changes were dropped
ENOUGH = 1000.0  # pairs of a kept and a dropped change that tell how they were chosen
ALIKE = 0.9  # cosine of two parents' changes, at most
ELECTED = 0.02  # share of places, at most, where changes of opposite signs were both kept


@dataclass(frozen=True, eq=False)
class Changes:
    """Changes at the places of one half-block.

    Attributes:
        y: the child's, (n,).
        t: the parents', (parents, n).
        tolerance: what rounding may add to y, (n,).
        tensors, groups: see `Half`.
    """

    y: np.ndarray
    t: np.ndarray
    tolerance: np.ndarray
    tensors: np.ndarray
    groups: np.ndarray

    @property
    def clear(self) -> np.ndarray:
        """Places at which every parent changed by much more than rounding, (n,) bool."""
        large: np.ndarray = (np.abs(self.t) > CLEAR * self.tolerance).all(axis=0)
        return large


@dataclass(frozen=True, eq=False)
class Selection:
    """How one half-block was merged.

    Attributes:
        mean: whether kept changes were averaged by weight; otherwise summed.
        gains: factor of each parent's change where it alone was kept, (tensors, parents).
        weights: for a mean, of each parent, summing to 1.
        kept: which changes were kept at each place, (parents, n) bool.
        explained: share of clear places that are explained.
        by_chance: the same for changes that are out of place.
    """

    mean: bool
    gains: np.ndarray
    weights: np.ndarray
    kept: np.ndarray
    explained: float
    by_chance: float

    @property
    def found(self) -> bool:
        """Whether the half-block was merged like that, beyond chance."""
        return self.explained >= EXPLAINED and self.explained - self.by_chance >= BEYOND


def changes_of(half: Half, base: int, parents: Sequence[int], roundoff: float) -> Changes | None:
    """The changes of a half-block; None where a model lacks it."""
    if any(model not in half.others for model in (base, *parents)):
        return None
    b = half.others[base]
    t = np.stack([half.others[p] - b for p in parents])
    tolerance = roundoff * (2 * np.abs(half.child) + np.abs(b)) + 1e-7
    return Changes(half.child - b, t, tolerance, half.tensors, half.groups)


def join_changes(parts: Sequence[Changes]) -> Changes:
    """Several half-blocks as one."""
    offset, tensors = 0, []
    for part in parts:
        tensors.append(part.tensors + offset)
        offset += int(part.tensors.max()) + 1
    return Changes(
        np.concatenate([p.y for p in parts]),
        np.concatenate([p.t for p in parts], axis=1),
        np.concatenate([p.tolerance for p in parts]),
        np.concatenate(tensors),
        np.concatenate([p.groups for p in parts]),
    )


def find_peak(y: np.ndarray, t: np.ndarray, tolerance: np.ndarray) -> tuple[float, float]:
    """The factor that most y / t share, and the share of places with it above the surroundings."""
    clear = np.abs(t) > CLEAR * tolerance
    if clear.sum() < 100:
        return 1.0, 0.0
    ratio = y[clear] / t[clear]
    within = ratio[(ratio > RATIOS[0]) & (ratio < RATIOS[1])]
    if len(within) < 50:
        return 1.0, 0.0
    edges = np.arange(np.log(RATIOS[0]), np.log(RATIOS[1]) + BIN, BIN / 2)
    fine, _ = np.histogram(np.log(within), bins=edges)
    counts = fine[:-1] + fine[1:]  # overlapping bins, so that no peak is cut in two
    smooth = np.convolve(counts, np.ones(17) / 17, mode="same")
    around = (17 * smooth - np.convolve(counts, np.ones(5), mode="same")) / 12
    best = int((counts - around).argmax())
    centre = np.exp(edges[best + 1])
    near = within[np.abs(np.log(within / centre)) < BIN]
    return float(np.median(near)), float(counts[best] - around[best]) / float(clear.sum())


def select(changes: Changes, like: Selection | None = None) -> Selection | None:
    """The better of both models for some parents; None where a parent alone is nowhere kept.

    Args:
        changes: of one or more half-blocks.
        like: what all half-blocks together gave, from which a single one starts.
    """
    peaks = [find_peak(changes.y, t, changes.tolerance) for t in changes.t]
    if min(share for _, share in peaks) < PEAK / 3:
        return None
    start = np.array([gain for gain, _ in peaks])
    tensors = int(changes.tensors.max()) + 1
    gains = np.tile(start, (tensors, 1))
    count = len(changes.t)
    if like is not None:
        return _fit(changes, gains, like.weights if like.mean else None)
    candidates = [_fit(changes, gains, None)]
    for favoured in (None, *(range(count) if count > 2 else ())):
        weights = np.full(count, 1.0)
        if favoured is not None:
            weights[favoured] = count
        candidates.append(_fit(changes, gains, weights / weights.sum()))
    return max(candidates, key=lambda found: found.explained)


def _subsets(count: int) -> np.ndarray:
    """All sets of parents, (2^count, count) bool; the first is the empty one."""
    return (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(bool)


def _predict(changes: Changes, gains: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Y for every set of kept changes, (sets, n)."""
    sets = _subsets(len(changes.t)).astype(float)
    scaled = gains[changes.tensors].T * changes.t
    if weights is None:
        summed: np.ndarray = sets @ scaled
        return summed
    total = sets @ weights
    averaged: np.ndarray = (sets @ (weights[:, None] * scaled)) / np.maximum(total, 1e-12)[:, None]
    return averaged


def _assign(
    changes: Changes, gains: np.ndarray, weights: np.ndarray | None, slack: float
) -> tuple[np.ndarray, np.ndarray]:
    """The set that fits best at each place, (n,), and whether it explains y there, (n,) bool."""
    predicted = _predict(changes, gains, weights)
    allowed = changes.tolerance + slack * np.abs(predicted)
    apart = np.abs(changes.y - predicted) / allowed
    best = apart.argmin(axis=0)
    return best, apart[best, np.arange(len(best))] <= 1


def _fit(changes: Changes, gains: np.ndarray, weights: np.ndarray | None) -> Selection:
    for _ in range(ROUNDS):
        best, good = _assign(changes, gains, weights, SLACK)
        kept = _subsets(len(changes.t))[best].T & good
        if weights is not None:
            weights = _mean_weights(changes, gains, kept, weights)
    gains = _refine(changes, gains, weights, kept)
    clear = changes.clear
    best, good = _assign(changes, gains, weights, FINE)
    kept = _subsets(len(changes.t))[best].T & good
    if weights is not None:
        weights = _mean_weights(changes, gains, kept, weights)
    shifted = replace(changes, t=np.roll(changes.t, 1, axis=1))
    _, chance = _assign(shifted, gains, weights, FINE)
    final = np.full(len(changes.t), np.nan) if weights is None else weights
    explained, by_chance = (float(g[clear].mean()) if clear.any() else 0.0 for g in (good, chance))
    return Selection(weights is not None, gains, final, kept, explained, by_chance)


def _refine(
    changes: Changes, gains: np.ndarray, weights: np.ndarray | None, kept: np.ndarray
) -> np.ndarray:
    """The factors of every matrix, from the places where one change alone was kept."""
    alone = kept & (kept.sum(axis=0) == 1) & (np.abs(changes.t) > CLEAR * changes.tolerance)
    refined = gains.copy()
    for tensor in range(len(gains)):
        here = changes.tensors == tensor
        for parent in range(len(changes.t)):
            chosen = alone[parent] & here
            if chosen.sum() >= 20:
                t = changes.t[parent][chosen]
                refined[tensor, parent] = float(changes.y[chosen] @ t / (t @ t))
    return refined


def _mean_weights(
    changes: Changes,
    gains: np.ndarray,
    kept: np.ndarray,
    before: np.ndarray,
    chosen: np.ndarray | None = None,
) -> np.ndarray:
    """Weights of a mean: sum over S of v_p (s_p t_p - y) = 0 where several changes were kept."""
    several = kept.sum(axis=0) > 1
    if chosen is not None:
        several &= chosen
    if several.sum() < 30:
        return before
    scaled = gains[changes.tensors].T * changes.t
    rows = np.where(kept, scaled - changes.y, 0.0)[:, several]
    inner = rows @ rows.T
    # The smallest with weights that sum to one.
    ridge = 1e-9 * float(np.trace(inner)) + 1e-300
    solved = np.linalg.solve(inner + ridge * np.eye(len(inner)), np.ones(len(inner)))
    weights = np.maximum(solved / solved.sum(), 1e-3)
    normalised: np.ndarray = weights / weights.sum()
    return normalised


def size_of_kept(changes: Changes, selection: Selection) -> float:
    """Probability that a kept change is larger than a dropped one, where no election dropped it.

    Sizes are compared within each matrix. Near 1 where small changes were trimmed (TIES), near 0
    where the largest were (breadcrumbs), and about one half where they were dropped at random.
    """
    signs = np.sign(changes.t)
    agree = (signs == signs[0]).all(axis=0)
    wins = pairs = 0.0
    for parent, kept in enumerate(selection.kept):
        size = np.abs(changes.t[parent])
        usable = agree & (size > CLEAR * changes.tolerance)
        for tensor in range(len(selection.gains)):
            here = usable & (changes.tensors == tensor)
            a, b = size[here & kept], np.sort(size[here & ~kept])
            if len(a) and len(b):
                wins += float(np.searchsorted(b, a).sum())
                pairs += len(a) * len(b)
    return wins / pairs if pairs > ENOUGH else 0.5


def has_election(changes: Changes, selection: Selection) -> bool:
    """Whether changes of opposite signs were never kept together."""
    signs = np.sign(changes.t)
    conflict = (signs.min(axis=0) < 0) & (signs.max(axis=0) > 0) & changes.clear
    kept = np.where(selection.kept, signs, 0.0)
    both = (kept.min(axis=0) < 0) & (kept.max(axis=0) > 0)
    return not conflict.any() or float(both[conflict].mean()) < ELECTED


def weigh(changes: Changes, selection: Selection, trimmed: bool) -> Fit | None:
    """The weights given to the merge tool, normalised; None where they left no trace.

    Args:
        changes: of one half-block.
        selection: how it was merged.
        trimmed: whether small changes were dropped, which merge tools do not make up for.
    """
    count = len(changes.t)
    if int((selection.kept.sum(axis=0) > 1).sum()) < OVERLAP:
        return None  # a sum and a mean are the same then
    everything = np.ones(len(changes.y), dtype=bool)
    shares = _weights(changes, selection, trimmed, everything)
    draws = [
        _weights(changes, selection, trimmed, changes.groups != group) for group in range(GROUPS)
    ]
    if shares is None or any(draw is None for draw in draws):
        return None
    drawn = np.stack([draw for draw in draws if draw is not None])
    errors = np.sqrt((GROUPS - 1) / GROUPS * np.square(drawn - drawn.mean(axis=0)).sum(axis=0))
    return Fit(shares, errors, 0.0, 1.0) if len(shares) == count else None


def _weights(
    changes: Changes, selection: Selection, trimmed: bool, chosen: np.ndarray
) -> np.ndarray | None:
    if selection.mean:
        return _mean_weights(changes, selection.gains, selection.kept, selection.weights, chosen)
    gains = np.median(selection.gains, axis=0)
    if not trimmed:
        gains = gains / _made_up(changes, selection.kept, chosen)
    total = float(gains.sum())
    return gains / total if total > 0 and np.isfinite(total) else None


def _made_up(changes: Changes, kept: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The factor that makes up for what was dropped: all changes over those that were kept.

    Counted where all changes have one sign, so that no election dropped any.
    """
    signs = np.sign(changes.t)
    usable = (signs == signs[0]).all(axis=0) & changes.clear & chosen
    size = np.abs(changes.t) * usable
    factor: np.ndarray = size.sum(axis=1) / np.maximum((size * kept).sum(axis=1), 1e-300)
    return factor


def choose_parents(
    halves: Sequence[Half], base: int, among: Sequence[int], roundoff: float
) -> tuple[tuple[int, ...], Selection, Changes] | None:
    """The parents whose changes explain a child's, place by place; None where none do."""
    halves = halves[:: max(len(halves) // MOST_HALVES, 1)]
    peaked = []
    for model in among:
        parts = [p for h in halves if (p := changes_of(h, base, (model,), roundoff)) is not None]
        if not parts:
            continue
        joined = join_changes(parts)
        _, share = find_peak(joined.y, joined.t[0], joined.tolerance)
        if share >= PEAK:
            peaked.append((share, model))
    if len(peaked) < 2:
        return None
    likely = [model for _, model in sorted(peaked, reverse=True)[: MOST + 1]]
    best: tuple[tuple[int, ...], Selection, Changes] | None = None
    for size in range(2, min(MOST, len(likely)) + 1):
        for parents in combinations(likely, size):
            parts = [p for h in halves if (p := changes_of(h, base, parents, roundoff)) is not None]
            if not parts:
                continue
            joined = join_changes(parts)
            if _are_alike(joined):
                continue
            found = select(joined)
            if found is None or not found.found or not _all_needed(found):
                continue
            needed = 0.0 if best is None else best[1].explained
            needed += WORTH if best is not None and size > len(best[0]) else 0.0
            if best is None or found.explained > needed:
                best = parents, found, joined
    return best


def _are_alike(changes: Changes) -> bool:
    """Whether two parents changed alike: seen from a model that is far from both, all do.

    Looked at where all have changed: a parent may have some blocks of that very model.
    """
    t = changes.t[:, changes.clear] if changes.clear.any() else changes.t
    lengths = np.linalg.norm(t, axis=1)
    cosines = t @ t.T / np.maximum(np.outer(lengths, lengths), 1e-300)
    return bool(np.abs(cosines[np.triu_indices(len(cosines), 1)]).max() > ALIKE)


def _all_needed(selection: Selection) -> bool:
    """Whether every parent's changes were kept somewhere."""
    return bool((selection.kept.mean(axis=1) > 0.01).all())
