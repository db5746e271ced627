"""One prompt's outputs over chosen tokens, by whichever way an endpoint leaves open.

direct: every token, or chosen ids. biased: the same bias on a reference and on K - 1 others lifts
them into the top K, and differences within one answer are free of the bias (Carlini et al. 2024).
paired: with K = 1, two lifted tokens share nearly all probability, so the winner's tells their
difference. argmax: see `huref.blackbox.argmax`.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from huref.blackbox.answers import Answer
from huref.blackbox.argmax import Differences, Method, next_bias
from huref.blackbox.capabilities import CHOSEN_AT_ONCE, MAX_BIAS, Capabilities
from huref.blackbox.client import Client
from huref.blackbox.question import Question
from huref.errors import EndpointError

Row = NDArray[np.float64]
Names = Mapping[int, str | int]

LIFT = 60.0  # nat; more than logits differ, less than the largest bias
SPAN = MAX_BIAS - LIFT - 2.0  # so that a lifted token may still be pushed down, or up
CLOSE = 5.0  # nat; of a closer pair float32 holds the winner's probability to 1e-5 nat
_PAIR_ATTEMPTS = 8
_MOST_TOGETHER = 256  # tokens in one argmax search; its matrix of bounds is quadratic


@dataclass(frozen=True)
class Settings:
    """How argmax searches are made.

    Attributes:
        method: see `next_bias`.
        precision: width of the intervals to end with, nat.
    """

    method: Method = "one-of-n"
    precision: float = 1e-3


class Collector:
    """Collects rows from one endpoint."""

    def __init__(self, client: Client, can: Capabilities, settings: Settings | None = None):
        self.can = can
        self.settings = settings or Settings()
        self._client = client
        self._offsets: dict[int, float] = {}  # token -> last seen difference to the reference

    async def row(self, prompt: str, ids: Sequence[int], names: Names) -> Row:
        """Log-probabilities of `ids`, (len(ids),), up to a constant.

        Args:
            prompt: the text.
            ids: distinct token ids.
            names: what each id is called in answers, where the endpoint does not say ids.

        Raises:
            EndpointError: an answer lacks what it should hold.
        """
        ways: dict[str, Callable[[str, Sequence[int], Names], Awaitable[Row]]] = {
            "full": self._full,
            "chosen": self._chosen,
            "biased": self._biased if self.can.top > 1 else self._paired,
            "argmax": self._argmax,
        }
        if self.can.collector not in ways:
            raise EndpointError(
                f"{self._client.url}: the endpoint gives {self.can.summary}; that is not enough "
                "to see the logits"
            )
        return await ways[self.can.collector](prompt, ids, names)

    def cost(self, tokens: int) -> int:
        """About how many requests a row of so many tokens takes."""
        if self.can.collector == "full":
            return 1
        if self.can.collector == "chosen":
            return -(-tokens // CHOSEN_AT_ONCE)
        if self.can.collector == "biased":
            together = self.can.top - 1
            return -(-(tokens - 1) // together) if together else math.ceil(1.2 * (tokens - 1))
        bits = math.log2(2 * SPAN / self.settings.precision)
        together = min(self.can.biased_at_once, _MOST_TOGETHER, tokens)
        each = bits if self.settings.method == "bisection" else 1.6 * bits / math.log2(together)
        return math.ceil(each * tokens)

    async def ask(self, question: Question) -> Answer:
        """One answer."""
        return await self._client.ask(question, self.can.dialect, self.can.model)

    async def name(self, token: int, repeat: str = "") -> str | int:
        """What a token is called in answers: push it up and see."""
        top = 1 if self.can.top else None
        bias = {token: MAX_BIAS}
        answer = await self.ask(Question("x", top, (), bias, greedy=True, repeat=repeat))
        return answer.text if self.can.collector == "argmax" else answer.best

    async def _full(self, prompt: str, ids: Sequence[int], names: Names) -> Row:
        answer = await self.ask(Question(prompt, top=self.can.vocabulary))
        return self._pick(answer, ids, names)

    async def _chosen(self, prompt: str, ids: Sequence[int], names: Names) -> Row:
        parts = []
        for start in range(0, len(ids), CHOSEN_AT_ONCE):
            group = tuple(ids[start : start + CHOSEN_AT_ONCE])
            answer = await self.ask(Question(prompt, ids=group))
            parts.append(self._pick(answer, group, names))
        return np.concatenate(parts)

    async def _biased(self, prompt: str, ids: Sequence[int], names: Names) -> Row:
        reference, rest = ids[0], ids[1:]
        parts = [np.zeros(1)]
        for start in range(0, len(rest), self.can.top - 1):
            group = [reference, *rest[start : start + self.can.top - 1]]
            for lift in (LIFT, MAX_BIAS):
                bias = dict.fromkeys(group, lift)
                answer = await self.ask(Question(prompt, self.can.top, (), bias))
                if all(answer.of(token, names.get(token)) is not None for token in group):
                    break
            values = self._pick(answer, group, names)
            parts.append(values[1:] - values[0])
        return np.concatenate(parts)

    async def _paired(self, prompt: str, ids: Sequence[int], names: Names) -> Row:
        reference = ids[0]
        row = np.zeros(len(ids))
        for place, token in enumerate(ids[1:], start=1):
            row[place] = await self._pair(prompt, reference, token, names)
            self._offsets[token] = row[place]
        return row

    async def _pair(self, prompt: str, reference: int, token: int, names: Names) -> float:
        """l_token - l_reference; near the last one seen, so that one request mostly does."""
        guess = self._offsets.get(token, 0.0)
        for _ in range(_PAIR_ATTEMPTS):
            bias = {reference: LIFT + guess / 2, token: LIFT - guess / 2}
            answer = await self.ask(Question(prompt, 1, (), bias))
            ahead = answer.of(token, names.get(token))
            behind = answer.of(reference, names.get(reference))
            found = ahead if ahead is not None else behind
            if found is None:
                break
            gap = -math.log(math.expm1(-found)) if found < -1e-7 else 16.0
            gap = gap if ahead is not None else -gap
            if abs(gap) <= CLOSE:
                return guess + gap
            guess += gap
        raise EndpointError(
            f"{self._client.url}: tokens {reference} and {token}, both pushed up, do not come out "
            "on top; the endpoint caps or changes the bias"
        )

    async def _argmax(self, prompt: str, ids: Sequence[int], names: Names) -> Row:
        together = min(self.can.biased_at_once, _MOST_TOGETHER)
        if together < 2:
            raise EndpointError(f"{self._client.url}: a bias on two tokens at once is refused")
        parts = [np.zeros(1)]
        for start in range(1, len(ids), together - 1):
            group = [ids[0], *ids[start : start + together - 1]]
            middle = await self._search(prompt, group, names)
            parts.append(middle[1:] - middle[0])
        return np.concatenate(parts)

    async def _search(self, prompt: str, group: Sequence[int], names: Names) -> Row:
        precision = self.settings.precision
        known = Differences(len(group), SPAN, slack=max(1e-4, precision / 4))
        places = {names[token]: place for place, token in enumerate(group)}
        bias: Row | None = np.zeros(len(group))
        for asked in range(self.cost(len(group)) * 4 + 64):
            if bias is None:
                return known.middle
            lifted = {t: round(LIFT + float(b), 6) for t, b in zip(group, bias, strict=True)}
            answer = await self.ask(Question(prompt, None, (), lifted, greedy=True))
            winner = places.get(answer.text)
            if winner is None:
                raise EndpointError(
                    f"{self._client.url}: '{answer.text[:40]}' came although other tokens were "
                    "pushed up; ids changed their meaning, or the bias is capped"
                )
            known.learn(winner, np.array(list(lifted.values())))
            if asked == 0:
                known.reference = winner
            bias = next_bias(known, precision, self.settings.method)
        raise EndpointError(f"{self._client.url}: the search for logits does not come to an end")

    def _pick(self, answer: Answer, ids: Sequence[int], names: Names) -> Row:
        values = [answer.of(token, names.get(token)) for token in ids]
        missing = [token for token, value in zip(ids, values, strict=True) if value is None]
        if missing:
            raise EndpointError(
                f"{self._client.url}: {len(missing)} of {len(ids)} tokens are missing from an "
                f"answer, first id {missing[0]}; its vocabulary is truncated, or smaller"
            )
        return np.array([value for value in values if value is not None])
