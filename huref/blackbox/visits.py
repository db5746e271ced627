"""The answers of one visit to a served model, in two rounds, and what is remarkable in them."""

import datetime as dt
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from huref.blackbox.answers import AnswerStore, TokenAnswer, VanishedError
from huref.blackbox.baseline import WATCHED, Baseline, Mode
from huref.blackbox.border import MOST_FAILURES, sampled_query
from huref.blackbox.client import RefusedError
from huref.blackbox.endpoint import Endpoint
from huref.blackbox.permutation import (
    LEAST,
    Change,
    TokenVisit,
    Visit,
    compare_tokens,
    compare_visits,
    depends_on_input,
)
from huref.blackbox.prompts import make_prompts
from huref.blackbox.query import TokenQuery
from huref.errors import EndpointError

PROMPTS, REPEATS = 6, 6  # of the modes logprobs and scores
ABOVE = 1e-3  # nat; what rounding may add to the log-probability of a certain token
RESUMED = 3600  # seconds after which an interrupted visit is begun anew


def watch_prompts() -> list[str]:
    """The prompts of every visit in mode logprobs."""
    return make_prompts(PROMPTS, "watch")


@dataclass
class VisitInProgress:
    """A visit in the making.

    Attributes:
        mode: what the answers allow, which may be less than was wanted.
        answers, texts: as in `Baseline`.
        findings: what is remarkable, in words.
        halves: p-value of tests between the first and the second half, and between each third and
            the rest; None if not tested.
        is_blind: whether the answers do not depend on the input, so that no change shows in them.
        served: what the answers name as their model and its system, in words.
    """

    mode: Mode
    answers: list[list[dict[str, float]]] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    halves: float | None = None
    is_blind: bool = False
    served: list[str] = field(default_factory=list)


def visit_key(endpoint: Endpoint, baseline: Path, mode: Mode) -> str:
    """Where the store keeps the name of a visit that is under way."""
    return AnswerStore.key("visit", endpoint.name, str(baseline.resolve()), mode)


def open_visit(endpoint: Endpoint, baseline: Path, mode: Mode) -> str:
    """A name for the visit's answers in the store; that of an interrupted visit, if it is recent.

    The budget of an interrupted visit is then not spent twice.
    """
    key, now = visit_key(endpoint, baseline, mode), _clocks()
    opened = endpoint.client.store.recall(key)
    if isinstance(opened, dict) and _is_recent(opened.get("clocks"), now):
        return str(opened["name"])
    name = secrets.token_hex(8)
    endpoint.client.store.remember(key, {"name": name, "clocks": now})
    return name


def _clocks() -> list[float]:
    """The date in seconds, which may jump, and the seconds since the machine started."""
    started = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return [dt.datetime.now(dt.UTC).timestamp(), time.clock_gettime(started)]


def _is_recent(then: list[float] | None, now: list[float]) -> bool:
    """Whether a visit is so young by both clocks: old answers must never pass for new ones."""
    ages = [b - a for a, b in zip(then or [], now, strict=False)]
    return len(ages) == len(now) and all(0 <= age < RESUMED for age in ages)


def collect(endpoint: Endpoint, base: Baseline, repeats: int, name: str) -> VisitInProgress:
    """Fresh answers to a baseline's prompts, in two rounds."""
    visit = VisitInProgress(base.mode)
    prompts = list(base.prompts) or watch_prompts()
    try:
        _collect_rounds(endpoint, base, prompts, repeats, name, visit)
    except (RefusedError, VanishedError) as error:
        if base.mode == "tokens":
            raise
        visit = VisitInProgress("tokens", findings=[f"{_given(base)} {error.what}"])
        if base.mode == "logprobs":
            _collect_rounds(endpoint, base, prompts, repeats, f"{name}/texts", visit)
    return visit


def _given(base: Baseline) -> str:
    when = f" of {base.made}" if base.made else ""
    return f"the baseline{when} has log-probabilities;"


def _collect_rounds(
    endpoint: Endpoint,
    base: Baseline,
    prompts: list[str],
    repeats: int,
    name: str,
    visit: VisitInProgress,
) -> None:
    """Add answers to a visit, and test its first half against its second.

    Raises:
        VanishedError: at least half of the answers lack the log-probabilities.
    """
    endpoint.require(len(prompts) * LEAST)
    answers: list[list[TokenAnswer]] = [[] for _ in prompts]
    asked, sizes = 0, []
    for half in (range(repeats // 2), range(repeats // 2, repeats)):
        repeated = [(i, _query(visit.mode, base, endpoint, p, f"{name}/{k}"))
                    for k in half for i, p in enumerate(prompts)]  # fmt: skip
        found = endpoint.ask_all([query for _, query in repeated], "visit", MOST_FAILURES)
        asked += len(found)
        for (i, _), answer in zip(repeated, found, strict=True):
            if answer is not None:
                answers[i].append(answer)
        sizes.append([len(each) for each in answers])
    received = sum(map(len, answers))
    visit.served = sorted({answer.served for each in answers for answer in each} - {""})
    if received < asked:
        visit.findings.append(f"{asked - received} of {asked} requests failed at every attempt")
    if visit.mode == "tokens":
        visit.texts = [[answer.text for answer in each] for each in answers]
        _require_enough(endpoint, visit.texts)
        _look_for_inputs(visit, visit.texts)
        visit.halves = _test_course(visit.texts, sizes[0], LEAST, compare_tokens)
        return
    tables = [[_table(visit.mode, answer) for answer in each] for each in answers]
    lacking = sum(not table for each in tables for table in each)
    if 2 * lacking >= received:
        raise VanishedError(
            f"{lacking} of {received} answers with status 200 have none", model=endpoint.name
        )
    if lacking:
        visit.findings.append(f"{lacking} of {received} answers lack log-probabilities")
    visit.answers = [[table for table in each if table] for each in tables]
    visit.texts = [[a.text for a in each] for each in answers] if visit.mode == "logprobs" else []
    _require_enough(endpoint, visit.answers)
    if visit.mode == "scores":
        visit.answers = [_common(each, visit.findings) for each in visit.answers]
        if not all(table for each in visit.answers for table in each):
            raise EndpointError(
                "its answers to one text score different tokens, so nothing can be concluded",
                model=endpoint.name,
            )
    _look_for_inputs(visit, visit.answers)
    most = max(v for each in visit.answers for answer in each for v in answer.values())
    if most > ABOVE:
        visit.findings.append(
            f"log-probabilities of up to {most:.2g} nat, which are those of no probabilities"
        )
    if not lacking:
        # Two answers to each of several prompts have permutations enough.
        compare = partial(compare_visits, permutations=10_000, least=2)
        visit.halves = _test_course(visit.answers, sizes[0], 2, compare)


def _test_course(
    answers: Sequence[Sequence[Any]],
    firsts: Sequence[int],
    least: int,
    compare: Callable[[Any, Any], Change],
) -> float | None:
    """Whether answers changed in the course of a visit: the p-value of four tests, or None.

    Args:
        answers: answers to each input, in the order of time.
        firsts: how many of them belong to the first half.
        least: least number of answers in each part of a test.
        compare: the test.
    """
    splits: list[tuple[list[Any], list[Any]]] = [([], []) for _ in range(4)]
    for each, first in zip(answers, firsts, strict=True):
        third = len(each) // 3
        ends = ((0, first), (0, third), (third, len(each) - third), (len(each) - third, len(each)))
        for (inside, outside), (start, end) in zip(splits, ends, strict=True):
            inside.append(each[start:end])
            outside.append([*each[:start], *each[end:]])
    usable = [s for s in splits if min(len(part) for parts in s for part in parts) >= least]
    if not usable:
        return None
    return min(1.0, len(usable) * min(compare(*split).p for split in usable))


def _look_for_inputs(visit: VisitInProgress, answers: Visit | TokenVisit) -> None:
    if not depends_on_input(answers):
        visit.is_blind = True
        visit.findings.append(
            "the answers do not depend on the prompt, so that no change of a model can show in them"
        )


def _require_enough(endpoint: Endpoint, visit: Sequence[Sequence[object]]) -> None:
    if min(map(len, visit)) < LEAST:
        raise EndpointError(
            f"fewer than {LEAST} answers to a prompt arrived, so nothing can be concluded",
            model=endpoint.name,
        )


def _query(mode: Mode, base: Baseline, endpoint: Endpoint, prompt: str, repeat: str) -> TokenQuery:
    if mode == "scores":
        by_echo = endpoint.capabilities.prompt_scores != "prompt_logprobs"
        return TokenQuery(
            prompt, 1, greedy=True, repeat=repeat, echo=by_echo, prompt_scores=not by_echo
        )
    if mode == "tokens" and base.mode == "tokens":
        return sampled_query(prompt, base.temperature, repeat)
    top = None if mode == "tokens" else min(base.top, WATCHED)
    return TokenQuery(prompt, top, greedy=True, repeat=repeat)


def _table(mode: Mode, answer: TokenAnswer) -> dict[str, float]:
    """An answer's log-probabilities by token, or by place and token of a scored text."""
    if mode == "scores":
        scores = enumerate(answer.prompt)
        return {f"{i}:{name}": value for i, (name, value) in scores if value is not None}
    return {str(token): value for token, value in (answer.by_id or answer.by_text).items()}


def _common(answers: list[dict[str, float]], findings: list[str]) -> list[dict[str, float]]:
    """The scores of the tokens that all answers to a text have."""
    shared = set.intersection(*(set(answer) for answer in answers))
    if any(len(answer) > len(shared) for answer in answers):
        note = "not all answers score the same tokens of a text"
        findings += [] if note in findings else [note]
    return [{name: answer[name] for name in answer if name in shared} for answer in answers]
