"""Shares of merges by least squares on sampled weights, block by block.

A merge tool that adds up weights makes each weight of a child the same combination of its parents'
weights, so for the places of one half-block

    c = sum over p of a_p w_p,    sum over p of a_p = 1,

which holds for linear merges exactly, for spherical ones of close models nearly, and for task
arithmetic with the common base as a further member: its share is 1 minus the sum of the weights.
Shares are solved for every half-block by itself, so weights may change with depth and differ
between attention and feed-forward. A set of members explains a child where it leaves at most
LEFT_OVER of the distance to the nearest single model, block by block (docs/maths.md, Mixtures).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from huref.lineage.sampled_family import GROUPS, Half

NEAREST = 24  # models that are tried as members
BEAM = 8  # sets that are extended by one member
MOST_MEMBERS = 5  # four parents and a base
LEFT_OVER = 0.42  # distance to a mixture, at most, in distances to the nearest model
SMALLEST_SHARE = 0.04
WORTH = 0.7  # another member must reduce the distance below this fraction of it
EXACT = 0.02  # distance, in distances to the nearest model, that rounding leaves
CLEAR = 0.1  # of what rounding leaves: what a further member must explain beyond it
APART = 0.5  # largest cosine between changes of independent descendants of one base
MISFIT = 0.5  # part of the unexplained distance that widens an interval
NARROWEST = 0.003  # half width of an interval, at least: types of 16 bits round
RIDGE = 1e-10


@dataclass(frozen=True, eq=False)
class HalfGram:
    """Inner products of what separates the models of a half-block from the child.

    Attributes:
        half: the numbers.
        members: indices in the family of the models that have this half.
        grams: (GROUPS, members, members) of x_p - c over the numbers of each group.
    """

    half: Half
    members: tuple[int, ...]
    grams: np.ndarray

    @cached_property
    def gram(self) -> np.ndarray:
        """Over all numbers."""
        total: np.ndarray = self.grams.sum(axis=0)
        return total

    def places(self, models: Iterable[int]) -> list[int]:
        """Positions of some models in `members`, of those that have this half."""
        return [self.members.index(m) for m in models if m in self.members]


@dataclass(frozen=True, eq=False)
class Fit:
    """Shares of some models in one half-block, or in all.

    Attributes:
        shares: (models,), summing to 1; NaN for a model without this half.
        errors: their standard errors.
        left: squared distance that is left.
        between: mean squared distance between two of the members.
    """

    shares: np.ndarray
    errors: np.ndarray
    left: float
    between: float

    @property
    def half_width(self) -> np.ndarray:
        """Half of the 95 % interval: sampling, and what the fit leaves unexplained."""
        misfit = np.sqrt(max(self.left, 0.0) / max(self.between, 1e-300))
        width: np.ndarray = np.hypot(np.hypot(2 * self.errors, MISFIT * misfit), NARROWEST)
        return width


def gram_of(half: Half) -> HalfGram | None:
    """The inner products of a half-block; None where no other model has it."""
    members = tuple(sorted(half.others))
    if not members:
        return None
    apart = np.stack([half.others[m] - half.child for m in members])
    grams = np.stack([(part := apart[:, half.groups == group]) @ part.T for group in range(GROUPS)])
    return HalfGram(half, members, grams)


def nearest_models(grams: Sequence[HalfGram], among: Iterable[int]) -> list[tuple[float, int]]:
    """Models by their squared distance to the child over all half-blocks, nearest first.

    A model that lacks a half counts there as if it were zero.
    """
    found = []
    for model in among:
        total = 0.0
        for gram in grams:
            if model in gram.members:
                at = gram.members.index(model)
                total += float(gram.gram[at, at])
            else:
                total += float(gram.half.child @ gram.half.child)
        found.append((total, model))
    return sorted(found)


def find_members(grams: Sequence[HalfGram], among: Sequence[int]) -> tuple[int, ...]:
    """The models whose combinations, half-block by half-block, explain the child; or ()."""
    order = nearest_models(grams, among)[:NEAREST]
    if len(order) < 2 or order[0][0] <= _between_copies(grams):
        return ()
    single, rounding = order[0][0], rounding_of(grams)
    others = [model for _, model in order]
    best: tuple[int, ...] = ()
    rest = np.inf
    beam: list[tuple[int, ...]] = [(model,) for model in others[:BEAM]]
    for _ in range(2, MOST_MEMBERS + 1):
        wider = {tuple(sorted({*s, m})) for s in beam for m in others if m not in s}
        tried = sorted((_left(grams, models), models) for models in wider)
        if not tried:
            break
        beam = [models for _, models in tried[:BEAM]]
        for left, models in tried[: 4 * BEAM]:
            exact = left - rounding <= EXACT**2 * single
            if _is_worth(left, rest, rounding) and _is_plausible(grams, models, exact):
                rest, best = left, models
                break
        if rest <= (EXACT / 4) ** 2 * single:
            break
    return best if rest <= LEFT_OVER**2 * single else ()


def rounding_of(grams: Sequence[HalfGram]) -> float:
    """Squared distance that rounding to the child's type leaves of it, over all half-blocks."""
    return sum(gram.half.rounding for gram in grams)


def _is_worth(left: float, rest: float, rounding: float) -> bool:
    """Whether a further member explains enough of the distance, or of what rounding does not.

    What rounding alone leaves is not to be explained: a descendant of the child has some of it.
    """
    if left < WORTH**2 * rest:
        return True
    beyond = min(rest - left, rest - rounding) > CLEAR * rounding
    return beyond and left - rounding < WORTH**2 * (rest - rounding)


def _between_copies(grams: Sequence[HalfGram]) -> float:
    """Squared distance up to which models are copies: twice what rounding to 11 bits leaves."""
    return 1e-7 * sum(float(g.half.child @ g.half.child) for g in grams)


def _left(grams: Sequence[HalfGram], models: Sequence[int]) -> float:
    """Squared distance from the child to the combinations of some models, over all halves."""
    total = 0.0
    for gram in grams:
        at = gram.places(models)
        if not at:
            total += float(gram.half.child @ gram.half.child)
            continue
        total += _solve(gram.gram[np.ix_(at, at)])[1]
    return total


def _solve(inner: np.ndarray) -> tuple[np.ndarray, float]:
    """The shares that sum to one with the smallest distance, and its square."""
    size = len(inner)
    ridge = RIDGE * float(np.trace(inner)) + 1e-300
    weights = np.linalg.solve(inner + ridge * np.eye(size), np.ones(size))
    shares = weights / weights.sum()
    return shares, max(float(shares @ inner @ shares), 0.0)


def fit_half(gram: HalfGram, models: Sequence[int]) -> Fit | None:
    """The shares of some models in one half-block; None where it has none of them."""
    at = gram.places(models)
    if not at:
        return None
    parts = gram.grams[:, at][:, :, at]
    total = parts.sum(axis=0)
    shares, left = _solve(total)
    draws = np.stack([_solve(total - part)[0] for part in parts])
    errors = np.sqrt((GROUPS - 1) / GROUPS * np.square(draws - draws.mean(axis=0)).sum(axis=0))
    squares = np.diag(total)
    between = squares[:, None] + squares[None] - 2 * total
    count = len(at) * (len(at) - 1)
    mean = float(between.sum()) / count if count else float(squares.sum())
    full, full_errors = np.zeros(len(models)), np.zeros(len(models))
    for place, position in enumerate(at):
        where = list(models).index(gram.members[position])
        full[where], full_errors[where] = shares[place], errors[place]
    return Fit(full, full_errors, left, mean)


def join_fits(fits: Sequence[Fit]) -> Fit:
    """The mean over half-blocks; one whose shares are hardly determined counts less."""
    weights = np.array([1 / (float(fit.half_width.max()) ** 2 + 1e-4) for fit in fits])
    weights /= weights.sum()
    shares = sum(w * fit.shares for w, fit in zip(weights, fits, strict=True))
    errors = np.sqrt(sum(np.square(w * fit.errors) for w, fit in zip(weights, fits, strict=True)))
    left = float(sum(w * fit.left for w, fit in zip(weights, fits, strict=True)))
    between = float(sum(w * fit.between for w, fit in zip(weights, fits, strict=True)))
    return Fit(np.asarray(shares), np.asarray(errors), left, between)


def largest_cosine(grams: Sequence[HalfGram], base: int, parents: Sequence[int]) -> float:
    """The largest absolute cosine between the changes of some models, seen from another one.

    Independent descendants of one base changed in nearly orthogonal directions; seen from one of
    them the others lie on one side. 1 where no half-block has all.
    """
    complete = [g for g in grams if all(m in g.members for m in (base, *parents))]
    if not complete or len(parents) < 2:
        return 1.0
    return max(map(abs, _cosines(complete, base, parents)))


def _cosines(grams: Sequence[HalfGram], seen_from: int, models: Sequence[int]) -> list[float]:
    """The cosines between the differences of some models from one."""
    inner = np.zeros((len(models), len(models)))
    for gram in grams:
        at, origin = gram.places(models), gram.places([seen_from])[0]
        total = gram.gram
        inner += (
            total[np.ix_(at, at)]
            - total[at, origin][:, None]
            - total[origin, at][None]
            + total[origin, origin]
        )
    lengths = np.sqrt(np.maximum(np.diag(inner), 1e-300))
    cosines = inner / np.outer(lengths, lengths)
    found: list[float] = cosines[np.triu_indices(len(models), 1)].tolist()
    return found


def negative_member(grams: Sequence[HalfGram], models: Sequence[int]) -> int | None:
    """The one model whose share is below that of a parent, as that of a base may be; or None."""
    low = _low(grams, models)
    return low[0] if len(low) == 1 else None


def _low(grams: Sequence[HalfGram], models: Sequence[int]) -> list[int]:
    fits = [fit for gram in grams if (fit := fit_half(gram, models)) is not None]
    shares = join_fits(fits).shares
    return [m for m, share in zip(models, shares, strict=True) if share < SMALLEST_SHARE]


def _is_plausible(grams: Sequence[HalfGram], models: Sequence[int], exact: bool) -> bool:
    """Whether shares are those of a merge: positive, but for that of a base of two parents.

    Training leaves no exact combination. Where a fit is not exact, the parents must have changed
    independently, as seen from the base; fine-tunes on the same text do not.
    """
    low = _low(grams, models)
    if not low:
        return True
    if len(low) > 1 or len(models) < 3:
        return False
    return exact or largest_cosine(grams, low[0], [m for m in models if m != low[0]]) <= APART
