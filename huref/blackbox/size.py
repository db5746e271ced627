"""Hidden size from outputs alone: the rank of the logits, where their singular values drop.

Logits are W h, so log-probabilities centred over tokens (clr) have rank d for any prompts
(Finlayson et al. 2024; Carlini et al. 2024). If the final norm has a bias, centring over prompts
as well reduces the rank by one; otherwise it does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from huref.blackbox.precision import Precision, detect_precision
from huref.blackbox.prompts import make_prompts
from huref.blackbox.sources import Source
from huref.errors import BudgetError

Matrix = NDArray[np.float64]

FIRST, GROWTH = 64, 2  # number of prompts and of tokens in the first attempt; growth factor
MARGIN = 1.3  # prompts and tokens per dimension
CLEAR = 5.0  # a drop by a smaller factor is rejected
CERTAIN = 30.0  # a drop by a smaller factor may hide one more dimension
_SMALLEST, _END = 8, 2  # ranks that are ignored: the smallest and the largest ones
_MULTIPLE = 8  # hidden sizes are multiples of this


@dataclass(frozen=True)
class Size:
    """The hidden size of a source; fields that cannot be determined are None.

    Attributes:
        hidden_size: best estimate.
        low, high: interval; high is None if weak dimensions may be hidden by noise.
        norm: type of the final norm.
        precision: precision of the served logits.
        requests: number of requests that the measurement took.
        why: evidence and assumptions, in words.
        rank: rank of the logit image, without the dimension that a bias adds.
        ratio: factor by which singular values drop at the rank, the smallest of all repetitions.
    """

    hidden_size: int | None
    low: int | None
    high: int | None
    norm: str | None
    precision: str
    requests: int
    why: str
    rank: int | None = None
    ratio: float | None = None

    def to_json(self) -> dict[str, object]:
        """The fields that `huref probe size --json` prints."""
        names = ("hidden_size", "low", "high", "norm", "precision", "requests", "why")
        return {name: getattr(self, name) for name in names}


def clr(values: Matrix) -> Matrix:
    """Centre rows (n, tokens), which removes the difference between logits and log-probabilities.

    This is the centred log-ratio transform of the probabilities (Aitchison 1982).
    """
    centred: Matrix = values - values.mean(axis=-1, keepdims=True)
    return centred


@dataclass(frozen=True)
class Gap:
    """The largest drop of the singular values: after the first `rank`, by the factor `ratio`."""

    rank: int
    ratio: float


def find_gap(values: Matrix) -> Gap:
    """The largest relative drop of the singular values of a matrix (prompts, tokens)."""
    spectrum = np.linalg.svd(values, compute_uv=False)
    spectrum = spectrum[: min(values.shape[0], values.shape[1] - 1) - _END]
    floor = max(float(spectrum[0]) * 1e-15, np.finfo(float).tiny)
    drops = np.log(np.maximum(spectrum[:-1], floor) / np.maximum(spectrum[1:], floor))
    index = _SMALLEST - 1 + int(np.argmax(drops[_SMALLEST - 1 :]))
    return Gap(index + 1, float(np.exp(drops[index])))


def count_above_noise(values: Matrix, noise: float) -> int:
    """Number of singular values of a matrix (prompts, tokens) that are above the noise.

    The largest singular value of Gaussian noise is about noise (sqrt n + sqrt s). The factor 3
    allows for the longer tail of 16-bit rounding errors.
    """
    spectrum = np.linalg.svd(values, compute_uv=False)
    floor = noise * (np.sqrt(values.shape[0]) + np.sqrt(values.shape[1]))
    return int((spectrum > 3 * floor).sum())


def unmeasured(source: Source) -> Size | None:
    """A result without figures, which says what it would take; None if there is no obstacle."""
    if source.obstacle is None:
        return None
    return Size(None, None, None, None, "unknown", 0, f"cannot tell: {source.obstacle}")


def measure_size(source: Source) -> Size:
    """Measure a source's hidden size, with ever more prompts and tokens until the drop appears.

    The drop must be at the same rank for a second set of prompts, for a second set of tokens and
    for a smaller measurement.

    Raises:
        BudgetError: the budget does not cover the smallest measurement.
        HurefError: the source fails, or gives too little to measure its logits.
    """
    requests_before = source.requests
    count = FIRST
    precision = Precision("unknown", np.inf)
    best: Gap | None = None
    while True:
        tokens = source.choose_ids(count)
        largest_rank = min(count, len(tokens) - 1)
        if (obstacle := _find_obstacle(source, count, len(tokens))) is not None:
            why, advice = obstacle
            if best is None and source.requests_left is not None:
                raise BudgetError(why, model=source.name, advice=advice)
            why = f"{why}; {advice}" if advice else why
            return _unknown(source, requests_before, precision, count // GROWTH, why, best)
        outputs = source.outputs(make_prompts(count), tokens)
        precision = precision_of(source, outputs)
        best = find_gap(clr(outputs))
        if best.ratio >= CLEAR and best.rank * MARGIN <= largest_rank:
            break
        above = count_above_noise(clr(outputs), precision.noise)
        if precision.coarse and above * MARGIN <= largest_rank:
            why = f"the served precision ({precision.name}) hides the drop"
            return _unknown(source, requests_before, precision, above, why, best)
        count *= GROWTH
    return _confirm(source, requests_before, precision, outputs, best)


def _find_obstacle(source: Source, count: int, tokens: int) -> tuple[str, str | None] | None:
    """Why `count` prompts and tokens cannot be measured, with advice; None if they can."""
    if min(count, tokens - 1) < count // GROWTH:
        return f"no drop among the first {count // GROWTH} dimensions; the vocabulary ends", None
    requests_left, cost = source.requests_left, source.cost(count, tokens)
    if requests_left is None or cost <= requests_left:
        return None
    why = (
        f"{count} prompts and tokens would take about {cost:,} more requests, "
        f"{requests_left:,} are left"
    )
    return why, "allow more with --budget"


def precision_of(source: Source, outputs: Matrix) -> Precision:
    """The rounding of a source's outputs, as far as the way they are collected preserves it."""
    if source.jitter > 1e-5:
        return Precision(f"varying by {source.jitter:.1g}", source.jitter / np.sqrt(2))
    if source.resolution:
        return Precision(f"intervals of {source.resolution:g}", source.resolution / np.sqrt(12))
    if not source.absolute:
        # Differences between several answers are not on the server's grid.
        return Precision("unknown from differences", 1e-6)
    return detect_precision(outputs)


def _unknown(
    source: Source, requests_before: int, precision: Precision, low: int, why: str, gap: Gap | None
) -> Size:
    """A result without hidden size."""
    ratio = gap.ratio if gap else None
    drop = f" (largest drop {ratio:.1f} at {gap.rank})" if gap and ratio else ""
    requests = source.requests - requests_before
    return Size(None, low, None, None, precision.name, requests, why + drop, None, ratio)


def _confirm(
    source: Source, requests_before: int, precision: Precision, outputs: Matrix, gap: Gap
) -> Size:
    """Repeat with other tokens, other prompts and fewer of both; determine the norm."""
    wanted = int(np.ceil(gap.rank * MARGIN)) + 8
    tokens = source.choose_ids(wanted)
    views = [clr(outputs[:wanted, :wanted])]
    notes = []
    others = source.choose_ids(wanted, start=len(tokens))
    for name, prompts, ids in (
        ("tokens", make_prompts(wanted), others),
        ("prompts", make_prompts(wanted, "b"), tokens),
    ):
        requests_left, cost = source.requests_left, source.cost(wanted, wanted)
        if len(ids) < wanted or (requests_left is not None and cost > requests_left):
            limit = "vocabulary" if len(ids) < wanted else "budget"
            notes.append(f"not repeated with other {name}: the {limit} is exhausted")
        else:
            views.append(clr(source.outputs(prompts, ids)))
    gaps = [gap, *map(find_gap, views)]
    ranks = {found.rank for found in gaps}
    ratio = min(found.ratio for found in gaps)
    offset = _find_offset(views)
    requests = source.requests - requests_before
    if max(ranks) - min(ranks) > 1 or ratio < CLEAR:
        why = f"repetitions disagree: drops at {sorted(ranks)}, the smallest by {ratio:.1f}"
        return Size(None, min(ranks), None, None, precision.name, requests, why, None, ratio)
    low = max(ranks)
    high = low if ratio >= CERTAIN else low + 1
    if offset:
        norm = "LayerNorm with bias"
    else:
        norm = "RMSNorm"
        high = low + 1  # a LayerNorm without bias has the rank of an RMSNorm of size - 1
    estimate = _multiple_within(low, high)
    if not offset and estimate == low + 1:
        norm = "LayerNorm"
        notes.append(f"rank {low}; {estimate} assumed, the next multiple of {_MULTIPLE}")
    elif not offset and estimate == low:
        high = low if ratio >= CERTAIN else high
        notes.append(f"RMSNorm, or LayerNorm without bias and hidden size {low + 1}")
    notes.insert(0, f"drop by {ratio:.0f} at {low} in {len(gaps)} measurements")
    return Size(
        estimate, low, high, norm, precision.name, requests, "; ".join(notes), low - offset, ratio
    )


def _find_offset(views: Sequence[Matrix]) -> bool:
    """Whether all logits share an offset: centring over prompts reduces the rank in most views."""
    drops = []
    for view in views:
        raw, centred = find_gap(view), find_gap(view - view.mean(axis=0))
        drops.append(raw.rank - centred.rank == 1 and centred.ratio >= CLEAR)
    return sum(drops) > len(drops) / 2


def _multiple_within(low: int, high: int) -> int:
    """The multiple of 8 within the interval, or the lower end of the interval."""
    multiple = -(-low // _MULTIPLE) * _MULTIPLE
    return multiple if multiple <= high else low
