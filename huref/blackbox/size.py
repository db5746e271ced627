"""Hidden size from outputs alone: the rank of log-ratios, told from where singular values drop.

Logits are W h, so log-probabilities with each row's mean removed (clr) have rank d whatever the
prompts (Finlayson et al. 2024; Carlini et al. 2024). With the mean over prompts removed as well,
the rank drops by one exactly where the final norm has a bias.
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

FIRST, GROWTH = 64, 2  # prompts (and tokens) of the first attempt, and how they grow
MARGIN = 1.3  # prompts and tokens wanted for each dimension
CLEAR = 5.0  # a smaller drop is not believed
CERTAIN = 30.0  # a smaller drop may hide one more dimension
_SMALLEST, _END = 8, 2  # ranks that are not looked at: the first few, and the last
_MULTIPLE = 8  # hidden sizes are multiples of this


@dataclass(frozen=True)
class Size:
    """What is known of an endpoint's hidden size; None where it cannot be told.

    Attributes:
        hidden_size: best guess.
        low, high: interval; high is None where small dimensions may be hidden.
        norm: final norm.
        precision: of the served logits.
        requests: asked for it.
        why: how sure, and what was guessed.
        rank: of the logit image without the offset that a bias adds, or None.
        ratio: drop of the singular values at the rank, the smallest of all repetitions.
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
        """What `huref probe size --json` prints."""
        names = ("hidden_size", "low", "high", "norm", "precision", "requests", "why")
        return {name: getattr(self, name) for name in names}


def clr(values: Matrix) -> Matrix:
    """Rows (n, tokens) less their means: logits and log-probabilities become the same.

    It is the centred log-ratio transform of the probabilities (Aitchison 1982).
    """
    centred: Matrix = values - values.mean(axis=-1, keepdims=True)
    return centred


@dataclass(frozen=True)
class Gap:
    """Where singular values drop most: after `rank` of them, by a factor `ratio`."""

    rank: int
    ratio: float


def find_gap(values: Matrix) -> Gap:
    """The largest relative drop among the singular values of a matrix (prompts, tokens)."""
    spectrum = np.linalg.svd(values, compute_uv=False)
    spectrum = spectrum[: min(values.shape[0], values.shape[1] - 1) - _END]
    floor = max(float(spectrum[0]) * 1e-15, np.finfo(float).tiny)
    drops = np.log(np.maximum(spectrum[:-1], floor) / np.maximum(spectrum[1:], floor))
    place = _SMALLEST - 1 + int(np.argmax(drops[_SMALLEST - 1 :]))
    return Gap(place + 1, float(np.exp(drops[place])))


def count_above_noise(values: Matrix, noise: float) -> int:
    """How many singular values of a matrix (prompts, tokens) its noise cannot explain.

    The largest singular value of a noise matrix is about noise (sqrt n + sqrt s); rounding to 16
    bits has a longer tail than Gaussian noise, hence the factor.
    """
    spectrum = np.linalg.svd(values, compute_uv=False)
    floor = noise * (np.sqrt(values.shape[0]) + np.sqrt(values.shape[1]))
    return int((spectrum > 3 * floor).sum())


def measure_size(source: Source) -> Size:
    """Find a source's hidden size, growing the measurement until the drop shows.

    The drop must come at the same rank for a second set of prompts, a second set of tokens and
    a smaller measurement; a drop that is small for the served precision is not believed.

    Raises:
        BudgetError: not even the smallest measurement can be paid for.
        HurefError: another subclass: the source fails, or offers too little to see its logits.
    """
    before = source.requests
    count = FIRST
    precision = Precision("unknown", np.inf)
    best: Gap | None = None
    while True:
        tokens = source.choose_ids(count)
        reach = min(count, len(tokens) - 1)
        room, cost = source.room, source.cost(count, len(tokens))
        if reach < count // GROWTH or (room is not None and cost > room):
            why = (
                f"no drop among the first {count // GROWTH} dimensions, and the vocabulary ends"
                if reach < count // GROWTH
                else f"{count} prompts and tokens would take about {cost:,} more requests, "
                f"{room:,} are left; allow more with --budget"
            )
            if best is None and room is not None and count == FIRST:
                raise BudgetError(f"{source.name}: {why}")
            return _unknown(source, before, precision, count // GROWTH, why, best)
        outputs = source.outputs(make_prompts(count), tokens)
        precision = precision_of(source, outputs)
        best = find_gap(clr(outputs))
        if best.ratio >= CLEAR and best.rank * MARGIN <= reach:
            break
        above = count_above_noise(clr(outputs), precision.noise)
        if precision.coarse and above * MARGIN <= reach:
            why = f"the served precision ({precision.name}) has destroyed the drop"
            return _unknown(source, before, precision, above, why, best)
        count *= GROWTH
    return _confirm(source, before, precision, outputs, best)


def precision_of(source: Source, outputs: Matrix) -> Precision:
    """How a source's outputs were rounded, as far as its way of answering lets them show it."""
    if source.wobble > 1e-5:
        return Precision(f"wobbling by {source.wobble:.1g}", source.wobble / np.sqrt(2))
    if source.resolution:
        return Precision(f"known to {source.resolution:g}", source.resolution / np.sqrt(12))
    if not source.absolute:
        # Differences of several answers are no longer on any grid that a server would use.
        return Precision("not told by differences", 1e-6)
    return detect_precision(outputs)


def _unknown(
    source: Source, before: int, precision: Precision, low: int, why: str, gap: Gap | None
) -> Size:
    ratio = gap.ratio if gap else None
    drop = f" (largest drop {ratio:.1f} at {gap.rank})" if gap and ratio else ""
    requests = source.requests - before
    return Size(None, low, None, None, precision.name, requests, why + drop, None, ratio)


def _confirm(source: Source, before: int, precision: Precision, outputs: Matrix, gap: Gap) -> Size:
    """Repeat with other tokens, other prompts and fewer of both; tell the norm."""
    wanted = int(np.ceil(gap.rank * MARGIN)) + 8
    tokens = source.choose_ids(wanted)
    views = [clr(outputs[:wanted, :wanted])]
    notes = []
    others = source.choose_ids(wanted, start=len(tokens))
    for name, prompts, ids in (
        ("tokens", make_prompts(wanted), others),
        ("prompts", make_prompts(wanted, "b"), tokens),
    ):
        room, cost = source.room, source.cost(wanted, wanted)
        if len(ids) < wanted or (room is not None and cost > room):
            reason = "the vocabulary" if len(ids) < wanted else "the budget"
            notes.append(f"not repeated with other {name}: {reason} ends")
        else:
            views.append(clr(source.outputs(prompts, ids)))
    gaps = [gap, *map(find_gap, views)]
    ranks = {found.rank for found in gaps}
    ratio = min(found.ratio for found in gaps)
    offset = _find_offset(views)
    requests = source.requests - before
    if max(ranks) - min(ranks) > 1 or ratio < CLEAR:
        why = f"repetitions disagree: drops at {sorted(ranks)}, the smallest {ratio:.1f}"
        return Size(None, min(ranks), None, None, precision.name, requests, why, None, ratio)
    low = max(ranks)
    high = low if ratio >= CERTAIN else low + 1
    if offset:
        norm = "LayerNorm with bias"
    else:
        norm = "RMSNorm"
        high = low + 1  # a LayerNorm without bias looks just like an RMSNorm of one less
    guess = _nearest(low, high)
    if not offset and guess == low + 1:
        norm = "LayerNorm"
        notes.append(f"rank {low}; {guess} guessed, as hidden sizes are multiples of {_MULTIPLE}")
    elif not offset and guess == low:
        high = low if ratio >= CERTAIN else high
        notes.append(f"RMSNorm, or a LayerNorm without bias at {low + 1}")
    notes.insert(0, f"drop by {ratio:.0f} at {low} in {len(gaps)} measurements")
    return Size(
        guess, low, high, norm, precision.name, requests, "; ".join(notes), low - offset, ratio
    )


def _find_offset(views: Sequence[Matrix]) -> bool:
    """Whether all logits share an offset: without it, the rank is one less in most views."""
    drops = []
    for view in views:
        whole, centred = find_gap(view), find_gap(view - view.mean(axis=0))
        drops.append(whole.rank - centred.rank == 1 and centred.ratio >= CLEAR)
    return sum(drops) > len(drops) / 2


def _nearest(low: int, high: int) -> int:
    """The multiple of 8 within the interval, or its lower end."""
    multiple = -(-low // _MULTIPLE) * _MULTIPLE
    return multiple if multiple <= high else low
