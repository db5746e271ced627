"""Detect a silent change of a served model from its log-probabilities.

At each visit the same short prompts are sent several times. The statistic is the mean absolute
change of a token's mean log-probability. Its null distribution comes from permuting the answers of
both visits, prompt by prompt (Logprob Tracking, arXiv 2512.03816).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from huref.blackbox.endpoint import Endpoint
from huref.blackbox.prompts import make_prompts
from huref.blackbox.signature import Signature, load_signature
from huref.blackbox.size import clr
from huref.blackbox.sources import Source
from huref.bounded_json import loads
from huref.errors import SignatureError
from huref.files import replacing

Matrix = NDArray[np.float64]

FORMAT = "huref watch 1"
NOT_A_BASELINE = "it is not a baseline made by `huref probe watch`"
PROMPTS, REPEATS = 6, 6
NEW_OUTPUTS = 8  # prompts whose outputs are compared with a signature's image
PERMUTATIONS = 2000
ALARM = 0.01  # p-value below which the model counts as changed

Visit = Sequence[Sequence[Mapping[str, float]]]  # prompt -> repeat -> token -> log-probability


@dataclass(frozen=True)
class Baseline:
    """The answers of an endpoint at one visit.

    Attributes:
        source: name of the endpoint.
        answers: for each prompt and repeat, token -> log-probability.
    """

    source: str
    answers: Visit

    def save(self, path: Path) -> None:
        """Write the file as JSON, atomically."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **asdict(self)}), "utf-8")


def load_baseline(path: Path) -> Baseline:
    """Read a baseline. Raises SignatureError when the file is not a baseline."""
    try:
        data = loads(path.read_text("utf-8"), constants=True)
        if data["format"] != FORMAT:
            raise SignatureError(NOT_A_BASELINE, file=path)
        return Baseline(str(data["source"]), data["answers"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SignatureError(NOT_A_BASELINE, file=path) from error


@dataclass(frozen=True)
class Change:
    """The comparison of two visits.

    Attributes:
        statistic: mean absolute change of a mean log-probability, nat.
        p: p-value under the hypothesis that nothing changed.
        changed: whether p is below ALARM.
    """

    statistic: float
    p: float
    changed: bool


def watch_prompts() -> list[str]:
    """The prompts of every visit."""
    return make_prompts(PROMPTS, "watch")


def compare_visits(before: Visit, after: Visit, seed: int = 0) -> Change:
    """Permutation test between two visits of the same prompts.

    Raises:
        SignatureError: the visits differ in their prompts, or have too few answers.
    """
    if len(before) != len(after) or min(len(v) for v in (*before, *after)) < 4:
        raise SignatureError("the two visits do not have four answers each to the same prompts")
    tables = [_tabulate([*old, *new]) for old, new in zip(before, after, strict=True)]
    random = np.random.default_rng(seed)
    observed, permuted = 0.0, np.zeros(PERMUTATIONS)
    for old, table in zip(before, tables, strict=True):
        actual = np.arange(len(table)) < len(old)
        shuffled = random.permuted(np.tile(actual, (PERMUTATIONS, 1)), axis=1)
        observed += _distances(table, actual[None])[0] / len(tables)
        permuted += _distances(table, shuffled) / len(tables)
    as_large = int((permuted >= observed - 1e-12).sum())
    p = (as_large + 1) / (PERMUTATIONS + 1)
    return Change(float(observed), p, p < ALARM)


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


def revisit(
    endpoint: Endpoint, baseline: Path, signatures: Sequence[Path] = ()
) -> dict[str, object]:
    """Compare a new visit with the baseline, or make the baseline if its file does not exist.

    Args:
        endpoint: the endpoint.
        baseline: file with the first visit.
        signatures: earlier signatures of the endpoint; new outputs must lie in their images.

    Returns:
        changed, p, statistic, image_residual (the largest, or None), requests, why.
    """
    before = load_baseline(baseline) if baseline.exists() else None
    images = [load_signature(path) for path in signatures]
    visit = endpoint.visit(watch_prompts(), REPEATS)
    result: dict[str, object] = dict.fromkeys(
        ("changed", "p", "statistic", "image_residual", "requests", "why")
    )
    if before is None:
        Baseline(endpoint.name, visit).save(baseline)
        why = f"the baseline {baseline} was made; later visits are compared with it"
        return result | {"requests": endpoint.requests, "why": why}
    change = compare_visits(before.answers, visit)
    result |= {"changed": change.changed, "p": change.p, "statistic": change.statistic}
    why = f"mean log-probabilities changed by {change.statistic:.2g} nat, p = {change.p:.2g}"
    found = [image_residual(endpoint, image) for image in images]
    if found:
        residual, limit = max(found)
        why += f"; image residual {residual:.2g}, up to {limit:.2g} expected from noise"
        result |= {"image_residual": residual, "changed": change.changed or residual > limit}
    return result | {"requests": endpoint.requests, "why": why}


def image_residual(source: Source, signature: Signature) -> tuple[float, float]:
    """Median relative residual of new outputs outside a signature's image, and its limit.

    The basis is a measurement, inaccurate in its weak directions, so that new prompts leave it by
    more than the noise of one value. The limit is therefore ten times the residual of the noise.
    """
    outputs = source.outputs(make_prompts(NEW_OUTPUTS, "watch"), signature.ids)
    values = clr(outputs)
    basis = signature.basis.astype(np.float64)
    norms = np.linalg.norm(values, axis=1)
    outside = np.linalg.norm(values - (values @ basis) @ basis.T, axis=1)
    explained = signature.noise * np.sqrt(len(signature.ids)) / np.median(norms)
    return float(np.median(outside / norms)), float(10 * explained + 1e-5)
