"""Permutation tests between two visits to an endpoint, and their power from the noise of one.

Every input is sent several times at each visit. If nothing has changed, the answers to one input
are exchangeable between the visits, whatever their distribution: a test that permutes them input
by input keeps its level exactly.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from huref.errors import SignatureError

Matrix = NDArray[np.float64]
Visit = Sequence[Sequence[Mapping[str, float]]]  # input -> repeat -> token -> log-probability
TokenVisit = Sequence[Sequence[str]]  # input -> repeat -> generated token

PERMUTATIONS = 5000
LEVEL = 0.01  # p-value below which the model counts as changed
LEAST = 4  # answers to an input at each visit
REFERENCE = 0.1  # nat; the change for which `Power.at_reference` is given
WANTED = 0.8  # probability with which `Power.detectable` is detected
_GRID = np.geomspace(1e-5, 3.0, 23)  # nat; changes for which the power is simulated
_SIMULATIONS = 300


@dataclass(frozen=True)
class Change:
    """The comparison of two visits.

    Attributes:
        statistic: for log-probabilities the mean absolute change of a mean log-probability, nat;
            for tokens the mean total variation distance between the answers' frequencies.
        p: p-value under the hypothesis that nothing changed.
        changed: whether p is below the level.
    """

    statistic: float
    p: float
    changed: bool


@dataclass(frozen=True)
class Power:
    """What a visit would detect, simulated from the noise of the baseline.

    Attributes:
        at_reference: probability of an alarm if each log-probability (or, with tokens, each
            logit) moves by REFERENCE nat (root mean square).
        detectable: such a change in nat that is detected with probability WANTED; None if none is.
    """

    at_reference: float
    detectable: float | None


def compare_visits(
    before: Visit,
    after: Visit,
    seed: int = 0,
    level: float = LEVEL,
    permutations: int = 2000,
    least: int = LEAST,
) -> Change:
    """Permutation test between the log-probabilities of two visits with the same prompts.

    Raises:
        SignatureError: the visits differ in their prompts, or have too few answers.
    """
    _require(before, after, least)
    before, after = shorten(before, after)
    tables = [_tabulate([*old, *new]) for old, new in zip(before, after, strict=True)]
    random = np.random.default_rng(seed)
    observed, permuted = 0.0, np.zeros(permutations)
    for old, table in zip(before, tables, strict=True):
        actual = np.arange(len(table)) < len(old)
        shuffled = random.permuted(np.tile(actual, (permutations, 1)), axis=1)
        observed += _distances(table, actual[None])[0] / len(tables)
        permuted += _distances(table, shuffled) / len(tables)
    as_large = int((permuted >= observed - 1e-12).sum())
    p = (as_large + 1) / (permutations + 1)
    return Change(float(observed), p, p < level)


def shorten(before: Visit, after: Visit) -> tuple[Visit, Visit]:
    """Both visits with the largest log-probabilities of each answer, as many as all have.

    An endpoint may list fewer than at an earlier visit, which is no change of its model.
    """
    shorter: tuple[list[Any], list[Any]] = ([], [])
    for answers in zip(before, after, strict=True):
        count = min(len(answer) for part in answers for answer in part)
        for kept, part in zip(shorter, answers, strict=True):
            kept.append([_largest(answer, count) for answer in part])
    return shorter


def _largest(answer: Mapping[str, float], count: int) -> Mapping[str, float]:
    if len(answer) == count:
        return answer
    return dict(sorted(answer.items(), key=lambda entry: (-entry[1], entry[0]))[:count])


def depends_on_input(visit: Visit | TokenVisit, seed: int = 0, permutations: int = 2000) -> bool:
    """Whether a visit's answers differ more between inputs than between the repeats of one.

    Those of a model do. Constants, coins and texts from a list do not, and a change of the model
    behind them could not be seen.
    """
    answers = [answer for each in visit for answer in each]
    inputs = np.repeat(np.arange(len(visit)), [len(each) for each in visit])
    table: Matrix
    if isinstance(answers[0], str):
        names, places = np.unique(np.array(answers, dtype=np.str_), return_inverse=True)
        table = np.eye(len(names))[places]
    else:
        count = min(map(len, answers))
        table = np.array([sorted(answer.values())[-count:] for answer in answers])  # type: ignore[union-attr]
    table = table - table.mean(axis=0)
    random = np.random.default_rng(seed)
    members = np.arange(len(visit))[:, None] == inputs  # (inputs, answers)
    sizes = members.sum(axis=1)

    def spread(order: NDArray[np.int64]) -> float:
        means = members @ table[order] / sizes[:, None]
        return float((sizes[:, None] * np.square(means)).sum())

    observed = spread(np.arange(len(answers)))
    as_large = sum(
        spread(random.permutation(len(answers))) >= observed * (1 - 1e-9)
        for _ in range(permutations)
    )
    return as_large == 0


def compare_tokens(
    before: TokenVisit, after: TokenVisit, seed: int = 0, level: float = LEVEL
) -> Change:
    """Permutation test between the generated tokens of two visits with the same inputs.

    The statistic of the test is the sum of the inputs' likelihood ratios.

    Raises:
        SignatureError: the visits differ in their inputs, or have too few answers.
    """
    _require(before, after)
    random = np.random.default_rng(seed)
    observed, permuted, distance = 0.0, np.zeros(PERMUTATIONS), 0.0
    for old, new in zip(before, after, strict=True):
        counts = _count(old, new)
        pooled = counts.sum(axis=0)
        observed += float(_likelihood_ratio(counts[:1], pooled)[0])
        drawn = random.multivariate_hypergeometric(pooled, len(old), size=PERMUTATIONS)
        permuted += _likelihood_ratio(drawn, pooled)
        shares = counts / counts.sum(axis=1, keepdims=True)
        distance += float(np.abs(shares[0] - shares[1]).sum()) / 2 / len(before)
    as_large = int((permuted >= observed - 1e-9).sum())
    p = (as_large + 1) / (PERMUTATIONS + 1)
    return Change(distance, p, p < level)


def power_of_visits(baseline: Visit, repeats: int, level: float = LEVEL, seed: int = 0) -> Power:
    """Power of `compare_visits` between a baseline and a visit with so many repeats."""
    random = np.random.default_rng(seed)
    tables = [_tabulate(answers) for answers in baseline]
    residuals = [
        (table - table.mean(axis=0)) * np.sqrt(len(table) / max(len(table) - 1, 1))
        for table in tables
    ]

    def simulate(change: float) -> float:
        total = 0.0
        for noise in residuals:
            moved = random.choice(noise, repeats).mean(axis=0)
            moved = moved - random.choice(noise, len(noise)).mean(axis=0)
            moved = moved + change * random.standard_normal(noise.shape[1])
            total += float(np.abs(moved).mean()) / len(residuals)
        return total

    return _find_power(simulate, level)


def power_of_tokens(
    baseline: TokenVisit, repeats: int, temperature: float, level: float = LEVEL, seed: int = 0
) -> Power:
    """Power of `compare_tokens` between a baseline and a visit with so many repeats.

    Logits that move by a change move the log-odds of two tokens by that over the temperature.
    """
    random = np.random.default_rng(seed)
    counts = [_count(answers, ())[0] for answers in baseline]
    # One more possible token, half seen, keeps every probability above 0.
    chances = [np.append(c, 0.5) / (c.sum() + 0.5) for c in counts]

    def simulate(change: float) -> float:
        total = 0.0
        for count, chance in zip(counts, chances, strict=True):
            moved = np.log(chance) + change / temperature * random.standard_normal(len(chance))
            moved = np.exp(moved - moved.max())
            old = random.multinomial(count.sum(), chance)
            new = random.multinomial(repeats, moved / moved.sum())
            total += float(_likelihood_ratio(old[None], old + new)[0])
        return total

    return _find_power(simulate, level)


def _find_power(simulate: Callable[[float], float], level: float) -> Power:
    """Share of simulated visits beyond the null distribution's quantile, by size of the change."""
    null = [simulate(0.0) for _ in range(2 * _SIMULATIONS)]
    limit = float(np.quantile(null, 1 - level)) + 1e-12

    def power(change: float) -> float:
        return float(np.mean([simulate(change) > limit for _ in range(_SIMULATIONS)]))

    low, high = 0, len(_GRID)  # the power grows with the change, so the grid is bisected
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(float(_GRID[middle])) >= WANTED else (middle + 1, high)
    detectable = float(_GRID[low]) if low < len(_GRID) else None
    return Power(power(REFERENCE), detectable)


def _require(
    before: Sequence[Sequence[object]], after: Sequence[Sequence[object]], least: int = LEAST
) -> None:
    if len(before) != len(after) or min(len(v) for v in (*before, *after)) < least:
        raise SignatureError("the two visits do not have four answers each to the same prompts")


def _tabulate(answers: Sequence[Mapping[str, float]]) -> Matrix:
    """Log-probabilities (answers, tokens); missing tokens get the smallest value of the answer."""
    tokens = sorted({token for answer in answers for token in answer})
    table = np.empty((len(answers), len(tokens)))
    for row, answer in zip(table, answers, strict=True):
        least = min(answer.values())
        row[:] = [answer.get(token, least) for token in tokens]
    return table


def _distances(table: Matrix, first: NDArray[np.bool_]) -> Matrix:
    """Mean absolute difference between two halves' means, (k,), for k masks (k, answers)."""
    mask = first.astype(np.float64)
    first_mean = mask @ table / mask.sum(axis=1, keepdims=True)
    second_mean = (1 - mask) @ table / (1 - mask).sum(axis=1, keepdims=True)
    distances: Matrix = np.abs(first_mean - second_mean).mean(axis=1)
    return distances


def _count(old: Sequence[str], new: Sequence[str]) -> NDArray[np.int64]:
    """How often each token was generated, (2, tokens)."""
    tokens = sorted({*old, *new})
    counts = [Counter(answers) for answers in (old, new)]
    return np.array([[count[token] for token in tokens] for count in counts], dtype=np.int64)


def _likelihood_ratio(first: NDArray[np.int64], pooled: NDArray[np.int64]) -> Matrix:
    """Log-likelihood ratio (k,) of two multinomials against one, for k halves (k, tokens)."""
    halves = np.stack([first, pooled - first]).astype(np.float64)  # (2, k, tokens)
    sizes = halves.sum(axis=2, keepdims=True)
    expected = sizes * (pooled / pooled.sum())
    ratio = np.where(halves > 0, halves, 1.0) / np.where(halves > 0, expected, 1.0)
    ratios: Matrix = (halves * np.log(ratio)).sum(axis=(0, 2))
    return ratios
