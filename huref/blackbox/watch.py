"""Detect a silent change of a served model, by the most that it gives.

logprobs: at each visit the same short prompts are sent several times, and log-probabilities of
their next tokens are compared (Logprob Tracking, arXiv 2512.03816). scores: fixed texts are scored
token by token. tokens: the generated tokens after border inputs are counted (`border`). The null
distribution of every test comes from permuting the answers of both visits (`permutation`).
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from huref.blackbox.baseline import WATCHED, Baseline, Mode, load_baseline
from huref.blackbox.border import FEWEST, INPUTS, SEARCH, TEMPERATURES, Borders, find_borders
from huref.blackbox.endpoint import Endpoint
from huref.blackbox.permutation import (
    LEVEL,
    REFERENCE,
    Power,
    Visit,
    compare_tokens,
    compare_visits,
    power_of_tokens,
    power_of_visits,
    shorten,
)
from huref.blackbox.prompts import TEXTS, make_prompts
from huref.blackbox.signature import Signature, load_signature
from huref.blackbox.size import clr
from huref.blackbox.sources import Source
from huref.blackbox.visits import (
    REPEATS,
    VisitInProgress,
    collect,
    open_visit,
    visit_key,
    watch_prompts,
)
from huref.errors import EndpointError, SignatureError

TOKEN_REPEATS = 24  # answers to each border input
LEAST_TOKEN_REPEATS = 8
NEW_OUTPUTS = 8  # prompts whose outputs are compared with a signature's image
MIDDLE = 0.001  # p-value below which the two halves of one visit count as different
BLUNT = 2.0  # nat; a visit that would miss such a change cannot say that nothing changed


def choose_mode(endpoint: Endpoint) -> Mode:
    """The mode that sees most, by what an endpoint gives."""
    found = endpoint.capabilities
    return "logprobs" if found.top else "scores" if found.prompt_scores else "tokens"


def revisit(
    endpoint: Endpoint,
    baseline: Path,
    signatures: Sequence[Path] = (),
    mode: Mode | None = None,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Compare a new visit with the baseline, or make the baseline if its file does not exist.

    Args:
        endpoint: the endpoint.
        baseline: file with the first visit.
        signatures: earlier signatures of the endpoint; new outputs must lie in their images.
        mode: what to compare; None for the baseline's mode, or at first for what sees most.
        level: probability of a false alarm at one visit.

    Returns:
        What `huref probe watch --json` prints.

    Raises:
        HurefError: the endpoint gives too little for the mode, the budget is spent, or the
            baseline is of another mode.
    """
    before = load_baseline(baseline) if baseline.exists() else None
    if before is not None and mode is not None and mode != before.mode:
        raise SignatureError(
            f"the baseline is of the mode {before.mode}",
            file=baseline,
            advice=f"name another file, or leave out --mode {mode}",
        )
    images = [load_signature(path) for path in signatures]
    wanted = before.mode if before else mode or choose_mode(endpoint)
    name = open_visit(endpoint, baseline, wanted)
    if before is None:
        result = _make_baseline(endpoint, baseline, wanted, name, level)
    else:
        result = _compare(endpoint, before, images, name, level)
    endpoint.client.store.remember(visit_key(endpoint, baseline, wanted), None)
    return result


def _make_baseline(
    endpoint: Endpoint, path: Path, mode: Mode, name: str, level: float
) -> dict[str, Any]:
    prompts: Sequence[str] = TEXTS if mode == "scores" else watch_prompts()
    temperature, top = 0.0, min(endpoint.capabilities.top, WATCHED)
    search = ""
    repeats = TOKEN_REPEATS if mode == "tokens" else REPEATS
    findings = list(endpoint.findings)
    if mode == "logprobs" and not top:
        raise EndpointError(
            f"it gives {endpoint.capabilities.summary}, which is too little for the mode logprobs",
            model=endpoint.name,
            advice="use --mode tokens",
        )
    if mode == "scores" and endpoint.capabilities.prompt_scores is None:
        raise EndpointError(
            "it gives no log-probabilities of a prompt's tokens",
            model=endpoint.name,
            advice="use --mode tokens",
        )
    if mode == "tokens":
        borders, repeats = _search(endpoint, name)
        search = (
            f"{len(borders.prompts)} border inputs at temperature {borders.temperature:g} among "
            f"{borders.tried} candidates ({borders.requests:,} requests)"
        )
        if len(borders.prompts) < FEWEST:
            return _result(
                endpoint, mode, level, findings=findings,
                why=f"cannot tell: only {search}, {FEWEST} are needed; {_why_none(borders)}",
            )  # fmt: skip
        prompts, temperature = borders.prompts, borders.temperature
    base = Baseline(
        endpoint.name, (), mode, tuple(prompts), (), temperature, top,
        dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    visit = collect(endpoint, base, repeats, name)
    findings += visit.findings
    if visit.mode != mode:
        why = "cannot tell: the baseline was not made, because a field vanished meanwhile"
        return _result(endpoint, mode, level, findings=findings, why=why)
    if len(visit.served) > 1:
        findings.append(_several_served(visit.served))
    if visit.is_blind:
        why = "cannot tell: the baseline was not made, because no change would show in the answers"
        return _result(endpoint, mode, level, findings=findings, why=why)
    if visit.halves is not None and visit.halves < MIDDLE:
        findings.append(_in_the_middle(visit.halves))
        why = "cannot tell: no baseline was made, as the answers changed meanwhile; make it again"
        return _result(endpoint, mode, level, findings=findings, why=why)
    found = {"answers": visit.answers, "texts": visit.texts, "served": visit.served}
    base = Baseline(**asdict(base) | found)
    base.save(path)
    power = _power(base, repeats, level)
    why = f"the baseline {path} was made; later visits are compared with it"
    why += f"; {search}" if search else ""
    return _result(
        endpoint, mode, level, power=power, findings=findings, why=f"{why}; {_say(power, mode)}"
    )


def _search(endpoint: Endpoint, name: str) -> tuple[Borders, int]:
    """Border inputs, and the number of repeats that the budget allows afterwards."""
    left = endpoint.requests_left
    endpoint.require(INPUTS * LEAST_TOKEN_REPEATS + SEARCH // 4)
    visit = INPUTS * TOKEN_REPEATS
    most = SEARCH
    if left is not None:
        most = min(SEARCH, max(left - visit, left - INPUTS * LEAST_TOKEN_REPEATS))
        most = min(most, max(SEARCH // 4, left - visit))
    borders = find_borders(endpoint, name, most)
    left = endpoint.requests_left
    repeats = TOKEN_REPEATS
    if left is not None and borders.prompts:
        repeats = min(repeats, left // len(borders.prompts))
    return borders, max(repeats, LEAST_TOKEN_REPEATS)


def _why_none(borders: Borders) -> str:
    if borders.distinct <= 1:
        return (
            "every answer is the same text, as of a model that first generates hidden tokens, or "
            "of an endpoint that does not answer the prompt"
        )
    return "the endpoint seems to ignore the temperature, or to repeat stored answers"


def _in_the_middle(p: float) -> str:
    return (
        "the first and the second half of this visit's answers, or one third and the rest, differ "
        f"(p = {p:.2g})"
    )


def _several_served(served: Sequence[str]) -> str:
    names = ", ".join(f"'{name}'" for name in served[:3])
    return f"the answers of this visit name {len(served)} models or systems: {names}"


def _compare_served(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Findings in what the answers name as their model and its system."""
    findings = [_several_served(after)] if len(after) > 1 else []
    if before and after and not set(before) & set(after):
        findings.append(
            f"the answers name '{after[0]}', where those of the baseline named '{before[0]}'"
        )
    return findings


def _count_listed(visit: Visit) -> int:
    """Least number of log-probabilities that an answer lists."""
    return min(len(answer) for answers in visit for answer in answers)


def _compare(
    endpoint: Endpoint, before: Baseline, images: Sequence[Signature], name: str, level: float
) -> dict[str, Any]:
    repeats = TOKEN_REPEATS if before.mode == "tokens" else REPEATS
    if before.mode == "tokens":
        repeats = max(map(len, before.texts))
        left = endpoint.requests_left
        if left is not None:
            repeats = max(LEAST_TOKEN_REPEATS, min(repeats, left // len(before.texts)))
    visit = collect(endpoint, before, repeats, name)
    findings = [*endpoint.findings, *visit.findings]
    findings += _compare_served(before.served, visit.served)
    in_the_middle = visit.halves is not None and visit.halves < MIDDLE
    if in_the_middle and visit.halves is not None:
        findings.append(_in_the_middle(visit.halves))
    if visit.mode != before.mode:
        return _compare_what_is_left(endpoint, before, visit, level, findings)
    difference: tuple[float, float] | None = None
    compared = before
    if before.mode == "tokens":
        change = compare_tokens(before.texts, visit.texts, level=level)
        why = f"the answers' frequencies differ by {change.statistic:.2g}, p = {change.p:.2g}"
    elif before.mode == "scores":
        old, new = _align(before.answers, visit.answers)
        if old is None or new is None:
            same = _spell(before.answers) == _spell(visit.answers)
            why = "the texts have other tokens than at the baseline: the tokenizer has changed"
            if not same:
                why = "cannot tell: other texts are scored than those of the baseline"
            return _result(
                endpoint, before.mode, level, changed=same or None, findings=[*findings, why],
                why=why,
            )  # fmt: skip
        compared = replace(before, answers=old)
        change = compare_visits(old, new, level=level)
        difference = _difference(old, new)
        why = (
            f"log-probabilities moved by {change.statistic:.2g} nat a token, on average by "
            f"{difference[0]:.2g} ± {difference[1]:.2g}, p = {change.p:.2g}"
        )
    else:
        old, new = shorten(before.answers, visit.answers)
        compared = replace(before, answers=old)
        change = compare_visits(old, new, level=level)
        why = f"mean log-probabilities changed by {change.statistic:.2g} nat, p = {change.p:.2g}"
    if before.mode != "tokens":
        count, listed = _count_listed(visit.answers), _count_listed(before.answers)
        if count < listed:
            findings.append(
                f"answers have only {count} of the {listed} log-probabilities of the baseline; "
                "nothing else is compared"
            )
    power = _power(compared, repeats, level)
    changed: bool | None = change.changed
    why += f"; {_say(power, before.mode)}"
    if not change.changed and (power.detectable is None or power.detectable > BLUNT):
        changed, why = None, f"cannot tell: {why}"
    elif not change.changed and visit.is_blind:
        changed, why = None, f"cannot tell: the answers do not depend on the prompt; {why}"
    elif not change.changed and in_the_middle:
        changed, why = None, f"cannot tell: the answers changed during this visit; {why}"
    result = _result(
        endpoint, before.mode, level, changed=changed, p=change.p, statistic=change.statistic,
        power=power, difference=difference, findings=findings, why=why,
    )  # fmt: skip
    found = [image_residual(endpoint, image) for image in images]
    if found:
        residual, limit = max(found)
        why += f"; image residual {residual:.2g}, up to {limit:.2g} expected from noise"
        changed = True if residual > limit else changed
        result |= {"image_residual": residual, "changed": changed, "why": why}
        result["requests"] = endpoint.requests
    return result


def _compare_what_is_left(
    endpoint: Endpoint, before: Baseline, visit: VisitInProgress, level: float, findings: list[str]
) -> dict[str, Any]:
    """Compare generated tokens where log-probabilities have vanished."""
    why = "the log-probabilities of the baseline are no longer given"
    if not before.texts or not visit.texts:
        why = f"cannot tell: {why}; make a new baseline with --mode tokens"
        return _result(endpoint, "tokens", level, findings=findings, why=why)
    change = compare_tokens(before.texts, visit.texts, level=level)
    words = f"the most probable tokens differ by {change.statistic:.2g}, p = {change.p:.2g}"
    if change.changed:
        why = f"{why}; {words}"
    else:
        why = f"cannot tell: {why}; {words}, but a small change would leave them as they are"
    return _result(
        endpoint, "tokens", level, changed=change.changed or None, p=change.p,
        statistic=change.statistic, findings=findings, why=why,
    )  # fmt: skip


def _align(before: Visit, after: Visit) -> tuple[Visit, Visit] | tuple[None, None]:
    """Both visits on the tokens that both score; None if the tokens at the same places differ.

    An answer that ends early says nothing of the tokens that it lacks.
    """
    old, new = [], []
    for first, second in zip(before, after, strict=True):
        shared = set(first[0]) & set(second[0])
        if 2 * len(shared) < min(len(first[0]), len(second[0])) or not shared:
            return None, None
        old.append([{name: answer[name] for name in sorted(shared)} for answer in first])
        new.append([{name: answer[name] for name in sorted(shared)} for answer in second])
    return old, new


def _spell(visit: Visit) -> str:
    """The letters and digits of scored texts; empty where their tokens are named by ids."""
    names = [place.partition(":")[2] for answers in visit for place in answers[0]]
    if all(name.isdigit() for name in names):
        return ""
    pieces = [
        bytes.fromhex(name[6:]) if name.startswith("bytes:") else name.encode() for name in names
    ]
    return "".join(filter(str.isalnum, b"".join(pieces).decode("utf-8", "replace")))


def _difference(before: Visit, after: Visit) -> tuple[float, float]:
    """Mean change of a token's log-probability, nat, and its standard error over the tokens."""
    changes: list[float] = []
    for old, new in zip(before, after, strict=True):
        for name in old[0]:
            means = [float(np.mean([answer[name] for answer in part])) for part in (new, old)]
            changes.append(means[0] - means[1])
    error = np.std(changes, ddof=1) / np.sqrt(len(changes)) if len(changes) > 1 else np.inf
    return float(np.mean(changes)), float(error)


def _power(base: Baseline, repeats: int, level: float) -> Power:
    if base.mode == "tokens":
        return power_of_tokens(base.texts, repeats, base.temperature or TEMPERATURES[0], level)
    return power_of_visits(base.answers, repeats, level)


def _say(power: Power, mode: Mode) -> str:
    what = "a logit" if mode == "tokens" else "a log-probability"
    if power.detectable is None:
        return "no change of a plausible size would be detected"
    return (
        f"a change of {what} by {power.detectable:.2g} nat would be detected in 80 % of visits, "
        f"one by {REFERENCE:g} nat in {power.at_reference:.0%}"
    )


def _result(
    endpoint: Endpoint,
    mode: Mode,
    level: float,
    *,
    why: str,
    findings: Sequence[str] = (),
    changed: bool | None = None,
    p: float | None = None,
    statistic: float | None = None,
    power: Power | None = None,
    difference: tuple[float, float] | None = None,
) -> dict[str, Any]:
    return {
        "changed": changed,
        "mode": mode,
        "level": level,
        "p": p,
        "statistic": statistic,
        "difference": difference and difference[0],
        "standard_error": difference and difference[1],
        "power": power and power.at_reference,
        "detectable": power and power.detectable,
        "image_residual": None,
        "findings": list(findings),
        "requests": endpoint.requests,
        "tokens": endpoint.client.tokens,
        "why": why,
    }


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
